#!/usr/bin/env python3
"""Several recipes side by side on one GPU, for a given time.

    python3 bench/cuda/trainings.py --seconds 300 recipes/smollm2-ppd.json recipes/smollm2-transfer.json

A small model leaves a GPU waiting for its host, so several may share it. Each recipe has the
schedule "stable": it trains at its full rate until the time is over, is stopped as by Ctrl-C, and goes on with --resume
through the schedule's `decay` steps. Logs, states and models are the folders OUT/NAME of the runs.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENDLESS = 10**9
SAVING = 15  # seconds before the end that a run has to save what there is


class Training:
    def __init__(self, path, o):
        self.recipe = json.loads(path.read_text())
        schedule = self.recipe.get("schedule", {})
        if schedule.get("kind") != "stable" or not schedule.get("decay"):
            sys.exit(f"{path}: needs the schedule \"stable\" with \"decay\" steps, to end after a time")
        self.decay = schedule["decay"]
        # Beside the recipe, whose folder the paths in it are relative to.
        self.path, self.folder, self.options = path.with_suffix(".timed"), o.out / path.stem, o
        self.errors = open(o.out / f"{path.stem}.err", "w")
        self.falling = self.over = self.failed = False
        self.asked = []  # processes that were told to stop

    def start(self, steps, *more):
        self.path.write_text(json.dumps(self.recipe | {"steps": steps}))
        o = self.options
        self.process = subprocess.Popen(
            [o.tutti, "train", self.path, "--device", o.device, "--out", self.folder, "-t", str(o.threads), "-q", *more],
            stdout=subprocess.DEVNULL, stderr=self.errors)

    def advance(self, seconds, fall, last):
        """What is due after so many seconds: the rates fall after `fall`; after `last` nothing runs any more."""
        if self.process.poll() is not None:
            done = self.steps()
            self.failed = self.process.returncode != 0 and self.process not in self.asked
            if self.failed or self.falling or not done or seconds > last - SAVING:
                self.over = True
                self.path.unlink(missing_ok=True)
            else:  # it was stopped
                self.falling = True
                self.start(done[-1]["step"] + self.decay, "--resume")
        elif seconds > last:
            self.process.kill()
        elif seconds > (last - SAVING if self.falling else fall) and self.process not in self.asked:
            self.asked.append(self.process)
            self.process.send_signal(signal.SIGINT)  # what there is is saved

    def log(self):
        path = self.folder / "log.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]  # the last may be half a line

    def steps(self):
        return [line for line in self.log() if "loss" in line]

    def report(self):
        steps = self.steps()
        if not steps or self.failed:
            return f"{self.folder.name}: failed after {len(steps)} steps; see {self.errors.name}"
        tokens, seconds = sum(s["tokens"] for s in steps), sum(s["seconds"] for s in steps)
        last = [s["loss"] for s in steps[-20:]]
        text = (f"{self.folder.name}: {steps[-1]['step']} steps, {tokens / 1e6:.2f} M rows, {tokens / seconds:.0f} rows/s, "
                f"loss {steps[0]['loss']:.3f} to {sum(last) / len(last):.3f}")
        for line in self.log():
            if "accuracy" in line:
                text += "\n    step {}: {}".format(line["step"], " ".join(f"{a[0]:.3f}" for a in line["accuracy"]))
        return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=pathlib.Path, nargs="+")
    parser.add_argument("--tutti", default=ROOT / "build/release/tutti")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300, help="before the rates fall")
    parser.add_argument("--end", type=float, default=120, help="seconds that saving and the falling may take; then all is stopped")
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    trainings = [Training(path, o) for path in o.recipes]
    for t in trainings:
        t.start(ENDLESS)
    begin, last = time.monotonic(), o.seconds + o.end
    while any(not t.over for t in trainings):
        for t in trainings:
            t.advance(time.monotonic() - begin, o.seconds, last)
        time.sleep(0.2)
    for t in trainings:
        print(t.report(), flush=True)
    sys.exit(int(any(t.failed or not t.steps() for t in trainings)))


if __name__ == "__main__":
    main()
