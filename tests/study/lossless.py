"""Every speculative method against plain decoding, token by token, on a thousand prompts of the real model.

    tests/study/lossless.py [--prompts 1000] [--tokens 64] [--model smollm2] [--method "lookup branches=4"]...

Prompts: chats from templates, paragraphs of the documentation to summarise, and others to copy, in equal parts. Each
method runs greedily and at temperature 0.8, sixteen requests at a time in one engine (`tutti run --verify-only`); last
`mixed`, where the sixteen go by different methods."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTTI = os.environ.get("TUTTI", str(ROOT / "build/release/tutti"))
METHODS = ["lookup", "lookup adaptive=0", "lookup adaptive=0 branches=4 draft_max=6",
           "early-exit adaptive=0 draft_max=3 exit_layer=24", "draft draft_max=4", "pearl adaptive=0",
           f"ppd rows=16 prompt_tokens={ROOT}/weights/smollm2-ppd",
           f"ppd rows=24 lookup=8 prompt_tokens={ROOT}/weights/smollm2-ppd",
           f"hidden-transfer maps={ROOT}/weights/smollm2-transfer adaptive=0"]
DRAFTED = ("draft", "pearl")  # by a second model
BATCH = 16


def wanted(method):
    """What a line of prompts says of its method."""
    name, *options = method.split()
    return {"method": name, "options": dict(option.split("=", 1) for option in options)}


def chats():
    asks = ["Explain {} to a child.", "List five facts about {}.", "Write a short poem about {}.",
            "What would change in the world without {}?", "Compare {} with its closest alternative.",
            "Write a JSON object that describes {} with four keys.", "Give three arguments for and against {}.",
            "Tell a story of two sentences in which {} matters.", "How does {} work?", "Write a Python class for {}."]
    things = ["photosynthesis", "a bicycle", "the tides", "glass", "a library", "steam engines", "honey bees", "chess",
              "the alphabet", "volcanoes", "a compass", "bread", "the moon", "paper", "a bridge", "salt", "vaccines",
              "a violin", "maps", "rainbows", "clocks", "the internet", "cotton", "a lighthouse", "ice", "sailing",
              "soap", "mirrors", "a telescope", "tea", "coins", "wool", "gravity", "a kite"]
    return [ask.format(thing) for thing, ask in product(things, asks)]


def paragraphs():
    """Long paragraphs of the documentation, each of one source document."""
    texts = []
    for page in sorted(ROOT.glob("docs/**/*.md")) + sorted(ROOT.glob("**/README.md")):
        if {"build", ".venv", ".cache"} & set(page.relative_to(ROOT).parts):
            continue
        texts += [p.replace("\n", " ") for p in page.read_text().split("\n\n") if 120 < len(p) < 900]
    return list(dict.fromkeys(texts))


def prompts(count):
    third = -(-count // 3)
    texts = paragraphs()
    summarise = [f"Summarise: {t}" for t in texts]
    copy = [f"Repeat this text word for word: {t}" for t in texts]
    # A page may have too few paragraphs: parts of them are prompts of their own.
    while len(copy) < third:
        halves = [t[: len(t) // 2] for t in texts]
        texts = halves
        summarise += [f"Summarise: {t}" for t in halves]
        copy += [f"Repeat this text word for word: {t}" for t in halves]
    return (chats()[:third] + summarise[:third] + copy[:third])[:count]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--draft-model", default=None, help="default: the model itself")
    parser.add_argument("--method", action="append", help="may be repeated; mixed: all by turns")
    o = parser.parse_args()
    texts = prompts(o.prompts)
    for method, temperature in product(o.method or [*METHODS, "mixed"], (0.0, 0.8)):
        turns = [wanted(m) for m in (METHODS if method == "mixed" else [method])]
        command = [TUTTI, "run", "-m", o.model, "-q", "-n", str(o.tokens), "--temp", str(temperature), "--method", "plain",
                   "--verify-only"]
        if any(turn["method"] in DRAFTED for turn in turns):
            command += ["--draft-model", o.draft_model or o.model]
        tokens = 0
        for first in range(0, len(texts), BATCH):
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
                for i, text in enumerate(texts[first:first + BATCH]):
                    file.write(json.dumps({"prompt": text, "seed": first + i, **turns[i % len(turns)]}) + "\n")
                file.flush()
                done = subprocess.run([*command, "--prompts", file.name], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{method}, temperature {temperature}, prompts from {first}: {done.stderr.strip()}")
            tokens += int(done.stdout.split(" prompts, ")[1].split()[0])
            if sys.stderr.isatty():
                print(f"\r{method}, temperature {temperature}: {first + BATCH} prompts", end="", file=sys.stderr)
        print(f"{method}, temperature {temperature}: {len(texts)} prompts, {tokens} tokens, equal", flush=True)


if __name__ == "__main__":
    main()
