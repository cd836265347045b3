#!/usr/bin/env python3
"""Methods that write the text of plain decoding, beside plain decoding: a table per prompt set and batch, on standard output.

    bench/speculative.py lookup early-exit "draft -md weights/smollm2-draft" "pearl -md weights/smollm2-draft --draft-cores 1"

A method is its name, then options of `tutti run` (`-o branches=4`, `-md FILE`). In each round plain decoding and every
method answer the same prompts in turn, greedily, `--batch` of them at a time; texts must be equal. Wants a machine that
does nothing else; prompts come from bench/prompts.py. Columns:

    tokens/forward  tokens of the text per forward of the model, the prompt's forward not counted
    rows            rows of such a forward: drafts, and what looks ahead beside them, included
    stands at 1 … 4 of the drafts tried at that place, the share that stood
    speed-up        time of plain decoding over the method's in the same round: the median, and the least and the most.
                    At batch 1 without the prompts' time, at others with it
    of roof         speed-up over tokens/forward * L(1)/L(rows), where L(n) is the measured time of a forward of n rows of
                    one sequence: what drafting itself costs (a draft model, a second forward for the head) is missing to 1
    memory          peak resident MiB

--counts prints what does not depend on the clock alone, of one round at batch 1: for a machine that is busy, and methods that
do not choose by measured times (`-o adaptive=0`).
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from program import ROOT, TUTTI

SETS = ("humaneval", "chat", "summarise", "copy")
FORWARD_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Run:
    """What one process did with the prompts of a file."""

    def __init__(self, o, method, prompts, batch):
        name, *options = method.split()
        command = [TUTTI, "run", "-m", o.model, "-t", str(o.threads), "--temp", str(o.temp), "--seed", "1",
                   "--prompts", prompts, "--parallel", str(batch), "--method", name, *options]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=out, stderr=errors)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0), errors.seek(0)
            answers, notes = [json.loads(line) for line in out], errors.read().decode()
        if process.returncode != 0 or any("error" in a for a in answers):
            sys.exit(f"bench/speculative.py: {' '.join(command)}: {notes or answers}")
        self.memory = used.ru_maxrss / 1024
        self.ids = [a["ids"] for a in answers]
        self.stats = [a["stats"] for a in answers]
        tokens, rate = re.search(r"(\d+) tokens, ([\d.]+)/s", notes).groups()
        self.seconds = self.decode_seconds if batch == 1 else int(tokens) / float(rate)

    @property
    def decode_seconds(self):
        return sum(s["decode_seconds"] for s in self.stats)

    def total(self, key):
        return sum(s["method"].get(key, 0) if "method" in s else 0 for s in self.stats)

    def positions(self, key):
        lists = [s["method"].get(key, []) for s in self.stats if "method" in s]
        return [sum(l[i] for l in lists if i < len(l)) for i in range(max(map(len, lists), default=0))]

    @property
    def tokens_per_forward(self):
        tokens = sum(s["tokens"] - 1 for s in self.stats)
        forwards = sum(s["method"]["forwards"] - 1 if "method" in s else s["tokens"] - 1 for s in self.stats)
        return tokens / max(forwards, 1)

    @property
    def rows(self):
        forwards = sum(s["method"]["forwards"] - 1 if "method" in s else s["tokens"] - 1 for s in self.stats)
        return (self.total("rows") or forwards) / max(forwards, 1)


def forward_seconds(o):
    """L(n): seconds of a forward of n rows that see the same hundred and some tokens, forks of one sequence."""
    run = subprocess.run([TUTTI, "bench", "-m", o.model, "-t", str(o.threads), "--prompt-rows", "0", "--streams",
                          ",".join(map(str, FORWARD_ROWS)), "--depth", "128", "--forks", "-n", "8", "--repeats", str(o.forward_repeats),
                          "--json", "-q"], capture_output=True, text=True, check=True)
    return {p["streams"]: p["streams"] / p["tok_s"] for p in json.loads(run.stdout)["decode"]
            if p["forks"] or p["streams"] == 1}


def between(table, rows):
    known = sorted(table)
    if rows >= known[-1]:
        return table[known[-1]] * rows / known[-1]
    high = next(k for k in known if k >= rows)
    low = max((k for k in known if k <= rows), default=known[0])
    return table[low] + (table[high] - table[low]) * ((rows - low) / (high - low) if high > low else 0)


def cut(path, folder, count):
    lines = path.read_text().splitlines()[:count]
    out = folder / path.name
    out.write_text("\n".join(lines) + "\n")
    return out


def table(o, name, prompts, batch, cost):
    plain, runs = [], {m: [] for m in o.methods}
    for _ in range(o.rounds):
        plain.append(Run(o, "plain", prompts, batch))
        for method in o.methods:
            run = Run(o, method, prompts, batch)
            if run.ids != plain[0].ids:
                sys.exit(f"bench/speculative.py: {method} wrote another text than plain on {prompts}, batch {batch}")
            runs[method].append(run)
    tokens = sum(map(len, plain[0].ids))
    rate = statistics.median(tokens / r.seconds for r in plain)
    print(f"\n{name}, batch {batch}: {len(plain[0].ids)} prompts, {tokens} tokens"
          + ("" if o.counts else f"; plain {rate:.0f} tok/s, {plain[0].memory:.0f} MiB") + "\n")
    times = [] if o.counts else ["speed-up", "of roof", "memory"]
    print("| " + " | ".join(["method", "tokens/forward", "rows", "stands at 1, 2, 3, 4", *times]) + " |")
    print("|---" * (4 + len(times)) + "|")
    for method, rounds in runs.items():
        ratios = [p.seconds / r.seconds for p, r in zip(plain, rounds)]
        r = rounds[len(rounds) // 2]
        stands = ", ".join(f"{a / d:.2f}" if d else "-" for a, d in
                           list(zip(r.positions("accepted_by_position"), r.positions("drafted_by_position")))[:4])
        speed = statistics.median(ratios)
        cells = [method.replace(str(ROOT) + "/", ""), f"{r.tokens_per_forward:.2f}", f"{r.rows:.2f}", stands or "-"]
        if not o.counts:
            roof = r.tokens_per_forward * between(cost, 1) / between(cost, r.rows) if batch == 1 else None
            cells += [f"{speed:.2f} ({min(ratios):.2f}-{max(ratios):.2f})", f"{speed / roof:.2f}" if roof else "",
                      f"{r.memory:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompts", type=pathlib.Path, default=ROOT / "runs/prompts", help="of bench/prompts.py")
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--batch", type=int, nargs="*", default=(1, 4, 16))
    parser.add_argument("--count", type=int, default=10 ** 6, help="prompts of a set at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forward-repeats", type=int, default=9, help="of the measurement of L(n)")
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("--counts", action="store_true", help="what does not depend on the clock")
    o = parser.parse_args()
    if o.counts:
        o.batch, o.rounds = (1,), 1
    if not (o.prompts / f"{o.sets[0]}.jsonl").exists():
        sys.exit(f"bench/speculative.py: no prompts in {o.prompts}; make them with bench/prompts.py --out {o.prompts}")
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()).group(1)
    print(f"{time.strftime('%Y-%m-%d')}, {cpu}, {o.threads} threads, model {o.model}, KV f16, temperature {o.temp:g}"
          + ("." if o.counts else f", {o.rounds} rounds in turns, medians (least-most)."))
    cost = forward_seconds(o) if 1 in o.batch and not o.counts else {}
    if cost:
        print("\nA forward of n rows, ms: " + ", ".join(f"{n}: {1000 * s:.2f}" for n, s in cost.items()) + ".")
    with tempfile.TemporaryDirectory() as folder:
        for name in o.sets:
            prompts = cut(o.prompts / f"{name}.jsonl", pathlib.Path(folder), o.count)
            for batch in o.batch:
                table(o, name, prompts, batch, cost)


if __name__ == "__main__":
    main()
