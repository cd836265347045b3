#!/usr/bin/env python3
"""The sudoku recipe from scratch, beside the weights that it made once: a table on standard output.

    bench/sudoku_recipe.py [--out runs/sudoku-again] [--threads 2] [--steps 1200] [--problems 1000]

Trains recipes/sudoku.json (half of its steps, as weights/README.md says) and lets both models solve the same held-out
puzzles by the reference sampler. Fails where training takes more than 20 minutes, or where the new weights solve fewer
than noise explains: two standard errors of the difference. Wants a machine that does nothing else; beside other work
the processor's seconds say what the run itself took.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import sys
import time

from program import ROOT, tutti

MOST_SECONDS = 20 * 60


def train(o):
    """Seconds on the clock and of the processors, the program's start and its own evaluations included."""
    shutil.rmtree(o.out, ignore_errors=True)
    clock, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    tutti("train", "recipes/sudoku.json", "-t", o.threads, "--until", o.steps, "--out", o.out)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def solved(o, model):
    document = json.loads(tutti("eval", "tasks", "-m", model, "--task", "sudoku", "-c", 36, "-n", 36, "--problems", o.problems,
                                "--batch", 16, "-t", o.threads, "-q", "--json", "--try", "diffusion policy=static"))
    return document["trials"][0]["solved"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "runs/sudoku-again")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--problems", type=int, default=1000)
    o = parser.parse_args()
    seconds, processor = train(o)
    lines = [json.loads(line) for line in (o.out / "log.jsonl").read_text().splitlines()]
    tokens = sum(line.get("tokens", 0) for line in lines)  # evaluations have lines of their own
    new, kept = solved(o, o.out / "model"), solved(o, "weights/sudoku")
    share = (new + kept) / (2 * o.problems)
    error = 100 * (2 * share * (1 - share) / o.problems) ** 0.5
    print("| steps | threads | tokens | seconds | processor seconds | solved | kept weights | standard error of the difference |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| {o.steps} | {o.threads} | {tokens:,} | {seconds:.0f} | {processor:.0f} | {100 * new / o.problems:.1f} % | "
          f"{100 * kept / o.problems:.1f} % | {error:.2f} points |")
    if seconds > MOST_SECONDS:
        sys.exit(f"bench/sudoku_recipe.py: training took {seconds:.0f} s, more than {MOST_SECONDS}")
    if 100 * (kept - new) / o.problems > 2 * error:
        sys.exit("bench/sudoku_recipe.py: the new weights solve fewer puzzles than the kept ones, beyond noise")


if __name__ == "__main__":
    main()
