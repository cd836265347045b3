#!/usr/bin/env python3
"""Texts that SmolLM2 writes itself, to distil it from: the data of recipes/smollm2-ppd.json.

    python3 recipes/smollm2_self_texts.py --tutti build/release/tutti --out runs/smollm2-self-texts

writes train.jsonl and held_out.jsonl: lines of {"prompt", "answer"}, half of them answers to questions (in the model's
own chat template), half continuations of paragraphs of Debian packages; of each, half greedy and half at temperature
0.7. Held out is by source: a topic or a document is in one of the two files only. Needs apt (packages are fetched and
unpacked into the folder, none is installed). All texts are written by one process, many streams at a time. The prompts
of bench/prompts.py are of topics and pages that are in neither file.
"""

import argparse
import pathlib

from smollm2_diffusion_data import (FORMS, TOPICS, documents, held_out, prose, run_lines, token_counts, unpack,
                                    write)

HELD_OUT = 10  # one source in so many is never trained
OPENING = 24  # words of a paragraph that are given
SHORTEST = 16  # tokens of an answer, else there is little to learn from it
LONGEST_PROMPT = 96  # tokens
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(question):
    """The model's own template, as `tutti run` renders it."""
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
            "<|im_start|>assistant\n")


def thinned(items, count):
    """About `count` of them, evenly."""
    return items[::max(1, len(items) // count)][:count]


def questions(count):
    pairs = [(topic, chat(form.format(topic))) for form in FORMS for topic in TOPICS.split(";")]
    return thinned(pairs, count)


def openings(root, count):
    """Beginnings of paragraphs. The source is the page."""
    found = []
    for number, page in enumerate(documents(root)):
        long = [p for p in page if prose(p) and len(p.split(" ")) > 2 * OPENING]
        found += [(f"page {number}", " ".join(p.split(" ")[:OPENING])) for p in thinned(long, 4)]
    return thinned(found, count)


def answers(tutti, folder, prompts, tokens, threads):
    lines = [{"prompt": prompt, "raw": True, "n": tokens, "temp": 0.0 if i % 2 == 0 else 0.7, "seed": i + 1}
             for i, prompt in enumerate(prompts)]
    return [answer["text"] for answer in run_lines(tutti, folder / "prompts.jsonl", lines, threads)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tutti", default="build/release/tutti")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/smollm2-self-texts"))
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=128, help="of a text, without its prompt")
    parser.add_argument("--threads", type=int, default=1)
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    asked = questions(o.texts // 2) + openings(unpack(o.out), o.texts - o.texts // 2)
    counts = token_counts(o.tutti, [prompt for _, prompt in asked])
    asked = [a for a, n in zip(asked, counts) if n <= LONGEST_PROMPT]
    texts = answers(o.tutti, o.out, [prompt for _, prompt in asked], o.tokens, o.threads)
    long = [n >= SHORTEST for n in token_counts(o.tutti, texts)]
    for name, wanted in (("train", False), ("held_out", True)):
        write(o.out / f"{name}.jsonl",
              [{"prompt": prompt, "answer": text} for (source, prompt), text, kept in zip(asked, texts, long)
               if kept and held_out(source, HELD_OUT) == wanted])


if __name__ == "__main__":
    main()
