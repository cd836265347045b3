#!/usr/bin/env python3
"""The same bits at every instruction level that this machine has: a dated page for bench/results.

    python3 tests/study/levels.py [--build build/release] [--out bench/results]

Unit tests of tensor, engine and decode (their oracles are scalar code and definitions in double) run at each level; then
SmolLM2 writes the same texts at each, greedily and at temperature 0.8, by several methods, in the classes exact-q8 and
w8a8-row, and all must be equal. Products of one matrix by level say what a level is worth. A machine with AMX or AVX-VNNI
proves what others can only emulate: the page names the source of the kernels by its hash.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/peers/llama.cpp"))
from compare import Machine, find_model  # noqa: E402

TESTS = ("tensor", "engine", "decode")
PROMPTS = ("Write a short story about a lighthouse keeper and a whale.", "Repeat: 1, 2, 3, 5, 8, 13, 21, 34, 55, 89.")
WAYS = [["--temp", temperature, "--method", method, "--arithmetic", arithmetic]
        for temperature in ("0", "0.8") for method in ("plain", "lookup") for arithmetic in ("exact-q8", "w8a8-row")]


def levels(program):
    """Those that this machine can run, as the program lists them when it refuses."""
    refusal = subprocess.run([program, "bench", "matmul", "--rows", "1"], env={**os.environ, "TUTTI_ISA": "none"},
                             capture_output=True, text=True).stderr
    return [name for name in ("scalar", "avx2", "avxvnni", "avx512", "amx") if re.search(rf"\b{name}\b", refusal)]


def at(level, command, timeout=1800):
    return subprocess.run([str(c) for c in command], env={**os.environ, "TUTTI_ISA": level}, capture_output=True,
                          text=True, timeout=timeout)


def unit_tests(build, level):
    cells, right = [], True
    for name in TESTS:
        done = at(level, [build / f"{name}_test"])
        count = re.search(r"\[  PASSED  \] (\d+) test", done.stdout)
        skipped = re.search(r"\[  SKIPPED \] (\d+) test", done.stdout)
        cells.append((f"{count[1]} passed" if count else "none passed") + (f", {skipped[1]} skipped" if skipped else "")
                     + ("" if done.returncode == 0 else f", exit {done.returncode}"))
        right = right and done.returncode == 0 and bool(count)
    return cells, right


def texts(program, model, level):
    """A digest for each way of writing."""
    found = []
    for way in WAYS:
        digest = hashlib.sha256()
        for prompt in PROMPTS:
            done = at(level, [program, "run", "-m", model, "-p", prompt, "-n", 96, "-s", 7, "-t", 2, "-q", *way])
            if done.returncode != 0 or not done.stdout:
                sys.exit(f"levels: {level}, {' '.join(way)}: exit {done.returncode}: {done.stderr[-500:]}")
            digest.update(done.stdout.encode())
        found.append(digest.hexdigest()[:12])
    return found


def products(program, level, arithmetic):
    done = at(level, [program, "bench", "matmul", "--shape", "1536x576", "--type", "Q8_0", "--rows", "1,8,32,128,512",
                      "--megabytes", 256, "--repeats", 3, "--arithmetic", arithmetic, "-t", 2, "-q", "--json"])
    if done.returncode != 0:
        sys.exit(f"levels: {level}, bench matmul: {done.stderr[-500:]}")
    return [line["gmac_s"] for line in json.loads(done.stdout)["shapes"][0]["results"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    o = parser.parse_args()
    program, model = o.build / "tutti", find_model(o.model)
    names = levels(program)
    if not names:
        sys.exit(f"levels: {program} names no level; build it (make build)")
    source = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD:src/tensor"], capture_output=True, text=True).stdout.strip()
    lines = ["# The same bits at every instruction level", "",
             f"{datetime.date.today()}, {Machine.cpu()}, {Machine.instructions()}; kernels: src/tensor {source[:12] or 'of no git'}; "
             "`python3 tests/study/levels.py`.", "",
             "| level | " + " | ".join(f"{t} tests" for t in TESTS) + " | texts | GMAC/s of Q8_0 1536x576 at 1, 8, 32, 128, 512 rows: "
             "exact-q8 | w8a8-row |", "|---|" + "---|" * (len(TESTS) + 3)]
    written, failed = {}, []
    for level in names:
        print(f"levels: {level}", file=sys.stderr, flush=True)
        cells, right = unit_tests(o.build, level)
        failed += [] if right else [level]
        written[level] = texts(program, model, level)
        same = sum(a == b for a, b in zip(written[level], written[names[0]]))
        speeds = [", ".join(f"{s:.0f}" for s in products(program, level, a)) for a in ("exact-q8", "w8a8-row")]
        lines.append(f"| {level} | {' | '.join(cells)} | {same} of {len(WAYS)} as {names[0]} | {' | '.join(speeds)} |")
    differ = [level for level in names if written[level] != written[names[0]]]
    lines += ["", f"Texts: {len(PROMPTS)} prompts of {model.name}, 96 tokens, by {len(WAYS)} ways (temperature 0 and 0.8, plain and lookup, "
              "exact-q8 and w8a8-row); two threads.", ""]
    page = "\n".join(lines)
    print(page)
    slug = re.sub(r"[^a-z0-9]+", "-", Machine.cpu().split("(")[0].lower()).strip("-")
    (o.out / f"{datetime.date.today().isoformat()}-levels-{slug}.md").write_text(page)
    wrong = ([f"other texts at {', '.join(differ)}"] if differ else []) + (
        [f"tests failed at {', '.join(failed)}"] if failed else [])
    sys.exit(f"levels: {'; '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
