#!/usr/bin/env python3
"""The data of recipes/smollm2-draft.json: what SmolLM2 writes itself, texts of Debian packages, Python's own sources.

    python3 recipes/smollm2_draft_data.py --tutti build/release/tutti --out runs/smollm2-draft-data

writes train.txt, one text that training cuts into windows; heads.json, the ids of the most frequent tokens, which the
draft model's head has. A draft stands where it is what the target picks, so the target's own texts count most: they go
in `--repeat` times, all others once. Pages that bench/prompts.py may ask about are left out, and thirty topics. Needs apt.
"""

import argparse
import ast
import collections
import json
import pathlib
import random
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "recipes")]
from prompts import complete, is_held_out, number, passages, repeat, summarise, topics  # noqa: E402
from smollm2_diffusion_data import FORMS, MODEL, chat, documents, prose, run_lines, unpack  # noqa: E402

END = "<|im_end|>\n"


def functions(count):
    """Heads of documented functions of the standard library, as HumanEval asks for them."""
    found = []
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text(errors="replace")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                head = "\n".join(lines[node.lineno - 1:node.body[0].end_lineno])
                if 80 < len(head) < 600:
                    found.append(head)
    return sorted(set(found), key=number)[:count]


def questions(pages, o):
    """(prompt, tokens, samples)"""
    texts = sorted({p for page in pages for p in passages(page)}, key=number)
    ask = [(chat(form.format(topic)), 128, o.samples) for topic in topics()[1] for form in FORMS]
    ask += [(summarise(p), 64, 1) for p in texts[:o.summaries]]
    ask += [(repeat(p), 128, 1) for p in texts[o.summaries:o.summaries + o.copies]]
    ask += [(complete(f), 128, 1) for f in functions(o.functions)]
    return ask


def answers(o, ask):
    """What the model writes: the first sample greedily, the others at temperature 0.8."""
    lines = [{"prompt": prompt, "raw": True, "n": n, "temp": 0.8 if k else 0, "seed": 1 + 64 * i + k}
             for i, (prompt, n, samples) in enumerate(ask) for k in range(samples)]
    texts = []
    for line, answer in zip(lines, run_lines(o.tutti, o.out / "questions.jsonl", lines, o.threads, *o.run)):
        texts.append(line["prompt"] + answer["text"] + (END if answer["finish_reason"] == "stop" else "\n\n"))
    return texts


def opening(text):
    return " ".join(text.split()[:16])


def more_texts(paths, all_pages):
    """Lines of {"prompt", "answer"} that the target wrote before, less those about what bench/prompts.py holds out."""
    asked = {form.format(topic) for topic in topics()[0] for form in FORMS}
    held_out = {opening(p) for page in all_pages if is_held_out(page) for p in page}
    for path in paths:
        for line in path.read_text().splitlines():
            value = json.loads(line)
            question = value["prompt"].split("user\n")[-1].split("<|im_end|>")[0]
            if question not in asked and opening(value["prompt"]) not in held_out:
                yield value["prompt"] + value["answer"] + (END if "<|im_start|>" in value["prompt"] else "\n\n")


def package_texts(pages):
    for page in pages:
        text = "\n\n".join(p for p in page if prose(p))
        if len(text) > 400:
            yield text + "\n\n"


def sources():
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(errors="replace") + "\n\n"


def cut(texts, characters):
    """Whole texts, all alike likely, until there are so many characters."""
    chosen, used = [], 0
    for text in sorted(texts, key=number):
        if used >= characters:
            break
        chosen.append(text)
        used += len(text)
    return chosen


def frequent(o, texts):
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    run = subprocess.run([o.tutti, "tokenize", "-m", MODEL, "--jsonl"], input=lines.encode(), stdout=subprocess.PIPE,
                         check=True)
    counts, tokens = collections.Counter(), 0
    for line in run.stdout.decode().splitlines():
        ids = json.loads(line)
        counts.update(ids)
        tokens += len(ids)
    ids = sorted(counts, key=lambda i: (-counts[i], i))[:o.head]
    print(f"{tokens} tokens, {len(counts)} ids; the head's {len(ids)} are {sum(counts[i] for i in ids) / tokens:.4f} of them")
    return sorted(ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tutti", default="build/release/tutti")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/smollm2-draft-data"))
    parser.add_argument("--packages", type=pathlib.Path, default=ROOT / ".cache/prompts")
    parser.add_argument("--samples", type=int, default=3, help="answers to each question")
    parser.add_argument("--summaries", type=int, default=1800)
    parser.add_argument("--copies", type=int, default=600)
    parser.add_argument("--functions", type=int, default=700)
    parser.add_argument("--more", type=pathlib.Path, nargs="*", default=[], help="other texts of the target, JSON lines")
    parser.add_argument("--repeat", type=int, default=3, help="how often the target's texts go in")
    parser.add_argument("--characters", type=int, default=6_000_000, help="of texts of packages at most")
    parser.add_argument("--code", type=int, default=2_000_000, help="characters of Python sources at most")
    parser.add_argument("--head", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", nargs="*", default=[], help="further options of tutti run")
    parser.add_argument("--only-answers", action="store_true", help="stop when the target has written")
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    o.packages.mkdir(parents=True, exist_ok=True)
    all_pages = list(documents(unpack(o.packages)))
    pages = [page for page in all_pages if not is_held_out(page)]
    own = o.out / "own.json"
    if not own.exists():
        own.write_text(json.dumps(answers(o, questions(pages, o))))
    if o.only_answers:
        return
    texts = (json.loads(own.read_text()) + list(more_texts(o.more, all_pages))) * o.repeat
    texts += cut(package_texts(pages), o.characters) + cut(sources(), o.code)
    random.Random(1).shuffle(texts)
    (o.out / "train.txt").write_text("".join(texts))
    (o.out / "heads.json").write_text(json.dumps(frequent(o, texts)))


if __name__ == "__main__":
    main()
