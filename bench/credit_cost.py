#!/usr/bin/env python3
"""What credit costs beside a threshold (sheet 36, section 6): a table on standard output.

    .venv/bin/python bench/credit_cost.py [--folder runs/random-126k] [--rounds 7]

A model of SmolLM2-135M's sizes with LLaDA's vocabulary of 126,464 and random weights (bench/random_model.py), Q8_0. With
`credit_alpha=0` credit does all its work (it keeps records, asks for their logits, corrects every probability) and changes
nothing, so both policies write the same tokens in the same forwards: checked here. With its own strength it writes other
tokens, no probability comes near the threshold, and the forwards are as many. In each round the policies answer the same
prompts in turn. Wants a machine that does nothing else.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from program import ROOT, TUTTI

VOCABULARY = 126464
BLOCKS = (32, 64)
PROMPT = "1003200000140002\n"
POLICIES = {"threshold": "policy=threshold", "credit, alpha 0": "policy=credit credit_alpha=0",
            "credit, its defaults": "policy=credit"}


def tutti(*arguments):
    done = subprocess.run([TUTTI, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"bench/credit_cost.py: tutti {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def model(folder):
    file = folder / "model.gguf"
    if not file.exists():
        subprocess.run([sys.executable, ROOT / "bench/random_model.py", folder / "folder", "llada", str(VOCABULARY)],
                       check=True)
        tutti("quantize", "-m", folder / "folder", file, "Q8_0", "-q")
    return file


def ids(file, o, block, options):
    settings = [part for option in options.split() for part in ("-o", option)]
    return json.loads(tutti("run", "-m", file, "-t", o.threads, "--raw", "-p", PROMPT, "-n", block, "--ignore-eos", "-q",
                            "--json", "--method", "diffusion", *settings))["ids"]


def answers(file, o, block):
    """Per policy the seconds of a forward, by round. Refuses other tokens or other numbers of forwards."""
    common = f"block_length={block} early_stop=0"
    trials = [f"diffusion {policy} {common}" for _ in range(o.rounds) for policy in POLICIES.values()]
    command = ["eval", "tasks", "-m", file, "-t", o.threads, "--problems", o.problems, "-n", block, "--ignore-eos", "-q"]
    rows = json.loads(tutti(*command, "--json", *(a for t in trials for a in ("--try", t))))["trials"]
    if any(row["forwards_per_answer"] != block for row in rows):
        sys.exit("bench/credit_cost.py: a policy needed other forwards; the comparison says nothing")
    first, second = (ids(file, o, block, f"{policy} {common}") for policy in list(POLICIES.values())[:2])
    if first != second:
        sys.exit("bench/credit_cost.py: credit without strength wrote other tokens; please report this")
    seconds = [row["seconds_per_answer"] / block for row in rows]
    return {name: seconds[i::len(POLICIES)] for i, name in enumerate(POLICIES)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "runs/random-126k")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--problems", type=int, default=1, help="answers of a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    o = parser.parse_args()
    file = model(o.folder)
    print("| block | policy | ms a forward | more than threshold: median (least, most) |")
    print("|---|---|---|---|")
    for block in BLOCKS:
        seconds = answers(file, o, block)
        base = seconds["threshold"]
        for name, times in seconds.items():
            more = [100 * (t / b - 1) for t, b in zip(times, base)]
            cost = "" if times is base else f"{statistics.median(more):+.2f} % ({min(more):+.2f}, {max(more):+.2f})"
            print(f"| {block} | {name} | {1e3 * statistics.median(times):.2f} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
