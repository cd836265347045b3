#!/usr/bin/env python3
"""dParallel on countdown (sheet 39, section 5): distilled models beside the best threshold, a table on standard output.

    bench/certainty_study.py [--seeds 1,2,3] [--variants rate-0.9,rate-0.5,…] [--problems 2000] [--threads 2]

Makes what is missing: runs/countdown (recipes/countdown.json, half an hour), the model's own right answers to trainable
problems, and for each variant and seed one run of recipes/countdown-certainty.json. Variants are the sheet's: the share of
an answer that is masked, each loss without the other, and blocks of 8 whose future is masked (semi-autoregressive). Every
model is swept over thresholds and entropies; of each the fewest forwards count that stay within a point of the untuned
model's static decoding, chosen on trainable problems and reported on held-out ones.
"""

import argparse
import json
import os
import pathlib
import sys

from program import ROOT, tutti

VARIANTS = {f"rate-{rate}": {"certainty_rate": rate} for rate in (0.25, 0.5, 0.75, 0.9, 1.0)} | {
    "consistency": {"certainty_weight": 0}, "certainty": {"certainty_weight": 1000},
    "blocks-of-8": {"certainty_block": 8, "certainty_rate": 0.5}}
SWEEP = ["diffusion policy=threshold threshold={0.5,0.6,0.7,0.8,0.85,0.9,0.95}",
         "diffusion policy=entropy entropy={0.05,0.1,0.2,0.3,0.5,0.7,1}"]


def base(o):
    if not (o.base / "config.json").exists():
        tutti("train", "recipes/countdown.json", "-t", o.threads, "--out", o.base.parent)
    if not o.answers.exists():
        tutti("eval", "tasks", "-m", o.base, "--task", "countdown", "-c", 36, "-n", 36, "--trained", "--problems", o.asked, "--batch", 32,
              "-t", o.threads, "-q", "--try", "diffusion policy=static", "--write", o.answers, "--solved-only")


def distil(o, variant, seed):
    name = f"{variant}-{seed}"
    r = json.loads((ROOT / "recipes/countdown-certainty.json").read_text())
    r |= {"name": name, "seed": seed, "steps": o.steps}
    r["model"]["from"] = r["tokenizer"]["from"] = str(o.base)
    r["data"]["jsonl"] = str(o.answers)
    r["loss"] |= VARIANTS[variant]
    file = o.out / f"{name}.json"
    wanted = json.dumps(r, indent=1) + "\n"
    if not (file.exists() and file.read_text() == wanted and (o.out / name / "model/config.json").exists()):
        o.out.mkdir(parents=True, exist_ok=True)
        file.write_text(wanted)
        tutti("train", file, "-t", o.threads, "--out", o.out / name)
    return o.out / name / "model"


def measure(o, model, trials, *options):
    """[(trial's text, share of solved problems in percent, forwards an answer)]"""
    document = json.loads(tutti("eval", "tasks", "-m", model, "--task", "countdown", "-c", 36, "-n", 36, "--problems", o.problems, "--batch",
                                32, "-t", o.threads, "-q", "--json", *options, *(a for t in trials for a in ("--try", t))))
    return [(t["label"], t["accuracy"], t["forwards_per_answer"]) for t in document["trials"]]


def best(o, model, least):
    """The setting with the fewest forwards of at least `least` percent on trainable problems, as held-out problems see it."""
    good = [t for t in measure(o, model, SWEEP, "--trained") if t[1] >= least]
    return measure(o, model, [min(good, key=lambda t: t[2])[0]])[0] if good else ("none", 0, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--asked", type=int, default=20000, help="trainable problems that the untuned model answers")
    parser.add_argument("--base", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "runs/countdown/model")
    parser.add_argument("--out", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "runs/countdown-certainty")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    o = parser.parse_args()
    o.answers = o.out / "answers.jsonl"
    o.out.mkdir(parents=True, exist_ok=True)
    if unknown := set(o.variants) - set(VARIANTS):
        sys.exit(f"bench/certainty_study.py: no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    base(o)
    static = ["diffusion policy=static"]
    least = measure(o, o.base, static, "--trained")[0][1] - 1
    untuned = best(o, o.base, least)
    print("| model | seed | static, % solved | best setting | % solved | forwards | times fewer than the untuned model's best |")
    print("|---|---|---|---|---|---|---|")

    def row(name, seed, model, chosen):
        solved = measure(o, model, static)[0][1]
        fewer = f"{untuned[2] / chosen[2]:.2f}" if chosen[2] else ""
        print(f"| {name} | {seed} | {solved:.2f} | {chosen[0]} | {chosen[1]:.2f} | {chosen[2]:.2f} | {fewer} |", flush=True)

    row("untuned", "", o.base, untuned)
    for variant in o.variants:
        for seed in o.seeds:
            model = distil(o, variant, seed)
            row(variant, seed, model, best(o, model, least))


if __name__ == "__main__":
    main()
