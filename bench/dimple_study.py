#!/usr/bin/env python3
"""Dimple's small copy: the five small-scale studies of sheet 22 as tables on standard output.

    bench/dimple_study.py [--seeds 1,2,3] [--scale 1] [--problems 100] [--out runs/dimple-study] [--threads 1]

For each seed one run of `tutti train-vision` makes what recipes/dimple-shapes.json says (causal alignment and instruction,
then masked answers), the same masked phase without answer padding, and pure diffusion: masked answers from the first step
on, as many steps as the three phases together. `--scale` multiplies all steps. A run whose recipe is unchanged is not made
again, and of one that was broken off the phases that ended are measured. Canvases are fixed here, before any test; the
threshold is chosen on other problems than those it is reported for. Answers a second are worth reading only from a machine
that does nothing else.
"""

import argparse
import collections
import json
import pathlib
import shutil

from program import ROOT, tutti

CANVAS = {"count": 4, "colour": 4, "compare": 4, "place": 8, "describe": 32, "caption": 48}
SHORT = ["count", "colour", "compare", "place"]  # answers that fit into the shortest canvas
LENGTHS = [4, 8, 16, 32]
THRESHOLDS = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
TUNING, PRIOR = 1_000_000, 2_000_000  # numbers of problems that no test asks
STATIC = ["--method", "diffusion", "-o", "policy=static", "-o", "block_length=0", "-o", "cache=prefix"]
PLAIN = ["--method", "plain"]
SKELETON = ['0:{"shape":"', '7:","colour":"', '15:","place":"', '25:"}']  # a word has a token, a place three


def recipe(seed, scale):
    r = json.loads((ROOT / "recipes/dimple-shapes.json").read_text())
    r["seed"] = seed
    for phase in r["phases"]:
        phase["steps"] = max(1, round(phase["steps"] * scale))
    align, _, diffusion = r["phases"]
    pure = {"name": "pure", "from": "untrained", "attention": "full", "steps": sum(p["steps"] for p in r["phases"]),
            "learning_rate": align["learning_rate"]}
    unpadded = dict(diffusion, name="unpadded", answer_padding=False) | {"from": "instruct"}
    r["phases"] += [pure, unpadded]
    return r


def train(o, seed):
    """The run's folder, and its phases that ended with their numbers of steps."""
    folder = o.out / f"seed-{seed}"
    wanted = json.dumps(recipe(seed, o.scale), indent=1) + "\n"
    kept = folder / "recipe.json"
    if not kept.exists() or kept.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        o.out.mkdir(parents=True, exist_ok=True)
        file = o.out / f"seed-{seed}.json"
        file.write_text(wanted)
        tutti("train-vision", file, "-t", o.threads, "-o", folder)
    ended = {p["name"]: p["steps"] for p in json.loads(wanted)["phases"] if (folder / p["name"] / "config.json").exists()}
    return folder, ended


def ask(o, model, kinds, canvas, *options, problems=None, batch=16):
    return json.loads(tutti("eval", "shapes", "-m", model, "--kinds", ",".join(kinds), "-n", canvas, "--batch", batch, "-q", "--json",
                            "--problems", problems or o.problems * len(kinds), "-t", o.threads, *options))


def percent(right, asked):
    return f"{100 * right / asked:.1f}" if asked else ""


def by_kind(o, model, *options):
    """{kind: share of right answers in percent} at every kind's own canvas."""
    out = {}
    for canvas in sorted(set(CANVAS.values())):
        kinds = [k for k in CANVAS if CANVAS[k] == canvas]
        document = ask(o, model, kinds, canvas, *options)
        out |= {k: percent(document["kinds"][k]["right"], document["kinds"][k]["asked"]) for k in kinds}
    return out


def written(o, *options):
    file = o.out / "answers.jsonl"
    tutti("eval", "shapes", "--json", "-q", "-t", o.threads, "--batch", 16, "--write", file, *options)
    return [json.loads(line) for line in file.read_text().splitlines()]


def prior(o, model):
    """What one gets right who reads the question alone: the most frequent answer to it among other problems."""
    seen = collections.defaultdict(collections.Counter)
    for line in written(o, "-m", model, *PLAIN, "-n", 1, "--problems", 6000, "--first", PRIOR):
        seen[line["question"]][line["expected"]] += 1
    out = {}
    for kind in CANVAS:
        lines = written(o, "-m", model, *PLAIN, "-n", 1, "--kinds", kind, "--problems", 4 * o.problems)
        guesses = [seen[a["question"]].most_common(1) for a in lines]
        out[kind] = percent(sum(g != [] and g[0][0] == a["expected"] for g, a in zip(guesses, lines)), len(lines))
    return out


def table(head, rows):
    print("| " + " | ".join(map(str, head)) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def lengths(o, runs):
    print("Studies 1 and 2. Short answers (" + ", ".join(SHORT) + "), percent right by the length of the canvas; one token a "
          "forward.\n")
    rows = []
    for seed, (folder, ended) in runs.items():
        for phase in ("diffusion", "pure", "unpadded"):
            if phase in ended:
                right = [ask(o, folder / phase, SHORT, n, *STATIC) for n in LENGTHS]
                rows.append([seed, phase, ended[phase], *(percent(r["right"], r["problems"]) for r in right)])
    table(["seed", "model", "steps of the phase", *LENGTHS], rows)


def blind(o, seed, folder, ended):
    print(f"Study 5. Seed {seed}, percent right by kind of question, canvases of "
          + ", ".join(f"{n} ({k})" for k, n in CANVAS.items()) + "; a causal model answers from left to right.\n")
    rows = []
    for phase in ("instruct", "diffusion", "pure"):
        for split, picture in (("test", "shown"), ("test", "zeroed"), ("test", "shuffled"), ("combinations", "shown")):
            if phase in ended:
                how = PLAIN if phase == "instruct" else STATIC
                right = by_kind(o, folder / phase, *how, "--split", split, "--picture", picture)
                rows.append([phase, split, picture, *right.values()])
    rows.append(["most frequent answer to the question", "test", "", *prior(o, folder / "instruct").values()])
    table(["model", "split", "picture", *CANVAS], rows)


def confident(o, seed, model):
    print(f"Study 3. Seed {seed}, descriptions as JSON (28 tokens) on a canvas of 32, {4 * o.problems} questions: forwards an answer "
          "under confident decoding. `chosen`: the fewest forwards within a point of one token a forward, on other problems.\n")
    policies = {"one token a forward": STATIC} | {
        f"confident, {t}": [*STATIC[:3], "policy=confident", "-o", f"threshold={t}", *STATIC[4:]] for t in THRESHOLDS}

    def measure(how, first, canvas=CANVAS["describe"]):
        r = ask(o, model, ["describe"], canvas, *how, "--first", first, problems=4 * o.problems)
        return 100 * r["right"] / r["problems"], r["forwards"] / r["problems"], 100 * r["parsed"] / r["problems"]

    tuned = {name: measure(how, TUNING) for name, how in policies.items()}
    least = tuned["one token a forward"][0] - 1
    chosen = min((n for n in tuned if tuned[n][0] >= least), key=lambda n: tuned[n][1])
    rows = []
    for name, how in policies.items():
        right, forwards, parsed = measure(how, 0)
        rows.append([name, f"{right:.1f}", f"{forwards:.2f}", f"{parsed:.1f}", "chosen" if name == chosen else ""])
    # The blanks are as long as their values, so the text has no end token: five blank positions are decoded.
    pinned = measure([*policies["confident, 0.9"], "-o", "pin=" + "|".join(SKELETON), "-o", "no_end=1"], 0, canvas=27)
    rows.append(["confident, 0.9, skeleton pinned, canvas of 27", *(f"{x:.2f}" for x in pinned), ""])
    table(["policy", "% right", "forwards", "% JSON", ""], rows)


def enlarged(o, folder, phase):
    """The model with pictures of 224 pixels, that is 64 cells: what it says of them is not asked, only how long it takes."""
    copy = o.out / "enlarged" / phase
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / phase, copy)
    (copy / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 224 * 224, "max_pixels": 224 * 224}))
    return copy


def prefilling(o, seed, folder):
    print(f"Study 4. Seed {seed}, prefilling. Accuracy over all kinds on the pictures as they are; answers a second with pictures of 64 "
          "cells, the tower's time included. The bound counts rows: (prompt + answer) / (answer + 1).\n")
    exact = [*STATIC[:-1], "cache=none"]
    right = {name: by_kind(o, folder / "diffusion", *how) for name, how in (("prefilled", STATIC), ("exact", exact))}
    table(["", *CANVAS], [[name, *shares.values()] for name, shares in right.items()])
    rows = []
    masked, causal = enlarged(o, folder, "diffusion"), enlarged(o, folder, "instruct")
    for kind, prompt in (("place", 72), ("describe", 68)):
        canvas = CANVAS[kind]
        for batch in (1, 32):
            def speed(model, how):
                r = ask(o, model, [kind], canvas, *how, problems=o.problems, batch=batch)
                return r["problems"] / r["seconds"]
            none, prefix, plain = speed(masked, exact), speed(masked, STATIC), speed(causal, PLAIN)
            rows.append([kind, canvas, batch, f"{none:.1f}", f"{prefix:.1f}", f"{prefix / none:.2f}",
                         f"{(prompt + canvas) / (canvas + 1):.2f}", f"{plain:.1f}"])
    table(["kind", "canvas", "batch", "answers/s, exact", "prefilled", "ratio", "bound", "causal model, cached"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--problems", type=int, default=100, help="of every kind")
    parser.add_argument("--out", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "runs/dimple-study")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-only", action="store_true")
    o = parser.parse_args()
    runs = {seed: train(o, seed) for seed in o.seeds}
    if o.train_only:
        return
    lengths(o, runs)
    for seed, (folder, ended) in runs.items():
        if "instruct" in ended:
            blind(o, seed, folder, ended)
        if "diffusion" in ended:
            confident(o, seed, folder / "diffusion")
            prefilling(o, seed, folder)


if __name__ == "__main__":
    main()
