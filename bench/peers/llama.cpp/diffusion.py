"""Masked models beside llama.cpp on the same GGUF, threads and held-out problems, in turns (A B A B …); loading is not
timed on either side. Two peers: B, the reference sampler written on llama.cpp's library (static_sampler.cpp), whose text
must be ours; A, llama.cpp's own diffusion program at the most accurate of the settings tried."""

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import PEER, ROOT, Machine, spread

BIN = PEER / "build" / "bin"
# What is tried of A: algorithm 4 is by confidence, 1 by entropy, 2 by margin. Its --temp 0 draws at temperature 1 and
# with --top-k 1 every confidence is 1. Its blocks must divide prompt and answer together: one block of both, or times.
A_SETTINGS = [["--diffusion-algorithm", algorithm, "--temp", temperature, "--top-k", top_k, *schedule]
              for algorithm in (4, 1, 2) for temperature in (0, 0.2) for top_k in (0, 1)
              for schedule in (["--diffusion-block-length", "SIZE"], ["--diffusion-eps", 0.001])]


def run(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"diffusion: exit {done.returncode} of {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done


class Ours:
    def __init__(self, o, model):
        self.o, self.model = o, model

    def measure(self, trial, batch=1, write=None):
        """Seconds per answer, accuracy, forwards per answer of one way to decode."""
        command = [self.o.program, "eval", "tasks", "-m", self.model, "-t", self.o.threads, "-q", "--task", self.o.task,
                   "--problems", self.o.problems, "-n", self.o.tokens, "--batch", batch, "--try", trial,
                   "--json", *(["--write", write] if write else [])]
        r = json.loads(run(command).stdout)["trials"][0]
        return r["seconds_per_answer"], r["accuracy"], r["forwards_per_answer"]


class Vocabulary:
    """A character tokenizer of `tutti train`."""

    def __init__(self, folder):
        read = json.loads((folder / "tokenizer.json").read_text())
        self.ids = {" " if k == "Ġ" else "\n" if k == "Ċ" else k: v for k, v in read["model"]["vocab"].items()}
        self.texts = {v: k for k, v in self.ids.items()}
        self.end = json.loads((folder / "config.json").read_text())["eos_token_id"]

    def encode(self, text):
        return [self.ids[c] for c in text]

    def decode(self, ids):
        ids = ids[:ids.index(self.end)] if self.end in ids else ids
        return "".join(self.texts.get(i, "?") for i in ids)


def peer_b(o, model, prompts, vocabulary, stop):
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
        file.write("".join(" ".join(map(str, vocabulary.encode(p))) + "\n" for p in prompts))
        file.flush()
        out = run([BIN / "static_sampler", model, file.name, o.threads, o.tokens, min(o.block, o.tokens),
                   *([vocabulary.end] if stop else [])]).stdout
    rows = [line.split() for line in out.splitlines()]
    texts = [vocabulary.decode([int(i) for i in r[2:]]) for r in rows]
    return statistics.fmean(float(r[0]) for r in rows), texts, statistics.fmean(int(r[1]) for r in rows)


def bare_template(o, scratch, prompts):
    """The model as a file whose chat template is the prompt itself: the program always puts prompts through one, and
    drops white space at their end."""
    ends = {p[len(p.rstrip()):] for p in prompts}
    if len(ends) != 1:
        sys.exit("diffusion: prompts end in different white space, which llama-diffusion-cli cannot be given")
    folder, out = scratch / "bare", scratch / "bare.gguf"
    shutil.copytree(o.model, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    # A template's own last newline would not count.
    config["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ " + json.dumps(ends.pop()) + " }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    run([o.program, "quantize", "-m", folder, out, o.type, "-q"])
    return out


def peer_a(o, model, prompt, settings, steps):
    """Seconds that the program itself counts for one answer, and its text."""
    size = len(prompt) + o.tokens
    settings = [size if s == "SIZE" else s for s in settings]
    command = [BIN / "llama-diffusion-cli", "-m", model, "-p", prompt.rstrip(), "-t", o.threads, "-c", size, "-b", size, "-ub", size,
               "--diffusion-steps", steps, *settings]
    for _ in range(20):  # its log is written by a thread that it does not always wait for
        done = run(command)
        text = done.stdout + done.stderr
        if found := re.search(r"total time: ([0-9.]+)ms", text):
            return float(found[1]) / 1e3, text[found.end():]
    sys.exit(f"diffusion: llama-diffusion-cli counted no time:\n{text[-2000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=ROOT / "weights" / "sudoku", help="a folder of a llada model")
    parser.add_argument("--type", default="F32", help="of the GGUF that all sides read")
    parser.add_argument("--task", default="sudoku")
    parser.add_argument("--tokens", type=int, default=19, help="of an answer")
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--peer-a-problems", type=int, default=8, help="a process each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--try", dest="trials", action="append", default=[], help="further ways of ours, as eval tasks --try")
    parser.add_argument("--program", type=Path, default=Path(os.environ.get("TUTTI", ROOT / "build/release/tutti")))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    o = parser.parse_args()
    vocabulary = Vocabulary(o.model)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as scratch:
        gguf = Path(scratch) / "model.gguf"
        run([o.program, "quantize", "-m", o.model, gguf, o.type, "-q"])
        compare(o, gguf, vocabulary, Path(scratch))


def compare(o, gguf, vocabulary, scratch):
    ours = Ours(o, gguf)
    block = f"block_length={min(o.block, o.tokens)}"
    trials = [f"diffusion policy=static {block} early_stop=0", f"diffusion policy=static {block}",
              f"freedave policy=static {block} draft_steps=2", f"freedave policy=static {block} draft_steps=4",
              f"diffusion policy=threshold threshold=0.9 {block}", *o.trials]
    answers = scratch / "answers.jsonl"
    _, accuracy, _ = ours.measure(trials[0], write=answers)
    problems = [json.loads(line) for line in answers.read_text().splitlines()]
    prompts, texts = [p["prompt"] for p in problems], [p["answer"] for p in problems]
    _, peer_texts, _ = peer_b(o, gguf, prompts, vocabulary, stop=False)
    same = sum(a == b for a, b in zip(texts, peer_texts))
    print(f"diffusion: {same} of {len(texts)} texts of the reference sampler are the same on both sides", flush=True)

    seconds = {t: [] for t in trials}
    facts = {}
    peers = {"B, all positions": (False, []), "B, until the end token": (True, [])}
    counts = {}
    machine = Machine()
    for turn in range(o.rounds):
        for trial in trials:
            with machine.watching():
                s, *facts[trial] = ours.measure(trial)
            seconds[trial].append(s)
        for name, (stop, times) in peers.items():
            with machine.watching():
                s, _, counts[name] = peer_b(o, gguf, prompts, vocabulary, stop)
            times.append(s)
        print(f"diffusion: round {turn + 1} of {o.rounds}", flush=True)

    lines = []
    a_best = None
    bare = bare_template(o, scratch, prompts)
    for settings in A_SETTINGS:
        for steps in (o.tokens, max(1, o.tokens // 2)):
            got = [peer_a(o, bare, p, settings, steps) for p in prompts[:o.peer_a_problems]]
            solved = sum(t in text for t, (_, text) in zip(texts, got))
            entry = (100 * solved / len(got), -statistics.median(s for s, _ in got), settings, steps)
            if a_best is None or entry[:2] > a_best[:2]:
                a_best = entry
    a_accuracy, a_seconds, a_settings, a_steps = a_best[0], -a_best[1], a_best[2], a_best[3]

    b_all = peers["B, all positions"][1]
    b_stop = peers["B, until the end token"][1]
    lines += ["| way | ms an answer | forwards | solved | x B (all) | x B (end) | x A |", "|---|---|---|---|---|---|---|"]

    def ratio(theirs, mine):
        values = [t / m for t, m in zip(theirs, mine)]
        return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"

    for trial in trials:
        mine = seconds[trial]
        ms = spread([1e3 * s for s in mine])
        lines.append(f"| `{trial}` | {ms} | {facts[trial][1]:.2f} | {facts[trial][0]:.1f} % | {ratio(b_all, mine)} | "
                     f"{ratio(b_stop, mine)} | {a_seconds / statistics.median(mine):.1f} |")
    for name, (_, times) in peers.items():
        lines.append(f"| llama.cpp, peer {name} | {spread([1e3 * s for s in times])} | {counts[name]:.2f} | "
                     f"{same} of {len(texts)} texts ours | | | |")
    lines.append(f"| llama.cpp, peer A: `{' '.join(map(str, a_settings))}`, {a_steps} steps | {1e3 * a_seconds:.2f} | {a_steps} | "
                 f"{a_accuracy:.0f} % our reference texts, of {o.peer_a_problems} | | | |")
    date = datetime.date.today().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", Machine.cpu().split("(")[0].lower()).strip("-")
    header = [f"- date: {date}", f"- cpu: {Machine.cpu()}, {Machine.instructions()}", f"- threads: {o.threads}",
              f"- model: {o.model.name}, {o.type}; task {o.task}, {o.problems} held-out problems, {o.tokens} tokens an answer, "
              f"blocks of {min(o.block, o.tokens)}", f"- rounds: {o.rounds}, interleaved; median (least–most)",
              f"- taken by other processes: median {statistics.median(machine.taken):.2f} cores",
              "- peer A: the settings with the most answers equal to the reference sampler's, of "
              f"{len(A_SETTINGS)} x 2 step counts; the time is the one it prints"]
    text = "\n".join(["# Masked models beside llama.cpp", "", *header, "", *lines, ""])
    path = o.out / f"{date}-diffusion-llama.cpp-{o.model.name}-{o.type.lower()}-{o.tokens}-{slug}.md"
    path.write_text(text)
    print(text)
    print(f"diffusion: written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


if __name__ == "__main__":
    main()
