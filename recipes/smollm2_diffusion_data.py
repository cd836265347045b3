#!/usr/bin/env python3
"""The data of recipes/smollm2-diffusion.json: texts of Debian packages, and answers that SmolLM2 writes itself.

    python3 recipes/smollm2_diffusion_data.py --tutti build/release/tutti --out runs/smollm2-data

writes train.jsonl (lines of {"text"} and {"prompt", "answer"}, each at most 127 tokens, so that the end token is the
128th), and texts.jsonl and answers.jsonl: lines of {"prompt", "answer"} that are held out by content, for
`tutti eval likelihood`. Needs apt (packages are fetched and unpacked into the folder, none is installed).
"""

import argparse
import hashlib
import html.parser
import json
import pathlib
import re
import subprocess

PACKAGES = ("perl-doc", "postgresql-doc-15", "debian-handbook")
MODEL = "smollm2"
LONGEST = 127  # tokens of a line, less the end token
HELD_OUT = 50  # one text, and one question, in so many is never trained

# Questions are every form with every topic.
FORMS = ("What is {}? Answer in one or two sentences.", "Write two sentences about {}.", "Why does {} matter to people?",
         "Explain {} to a child in a few words.", "Name one surprising fact about {}.", "Give me a short tip about {}.",
         "Write a very short story about {}.", "How would you describe {} to a friend?",
         "What should a beginner know about {}?", "Compare {} with something else, in two sentences.")
TOPICS = """rain;snow;the moon;the sun;rivers;mountains;the ocean;forests;deserts;volcanoes;earthquakes;clouds;trees;
flowers;bees;birds;cats;dogs;horses;whales;spiders;ants;fish;elephants;bread;cheese;rice;coffee;tea;salt;sugar;apples;
tomatoes;chocolate;cooking;gardening;painting;music;the piano;the guitar;dancing;theatre;films;books;poetry;libraries;
schools;teachers;mathematics;geometry;prime numbers;algebra;statistics;physics;gravity;light;sound;electricity;magnets;
atoms;chemistry;water;ice;fire;metals;gold;glass;biology;cells;genes;evolution;plants;medicine;sleep;exercise;running;
swimming;football;chess;games;travel;trains;bicycles;cars;ships;aeroplanes;maps;clocks;calendars;money;banks;trade;
farming;cities;villages;houses;bridges;roads;democracy;laws;elections;history;the Roman Empire;ancient Egypt;castles;
museums;languages;grammar;translation;letters;newspapers;radio;telephones;computers;programming;the internet;databases;
operating systems;files;passwords;networks;search engines;robots;artificial intelligence;space travel;planets;stars;
galaxies;telescopes;photography;dreams;memory;friendship;honesty;courage;patience;humour;holidays""".replace("\n", "")


def held_out(text, one_in=HELD_OUT):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % one_in == 0


def unpack(folder):
    root = folder / "root"
    for package in PACKAGES:
        if not list(folder.glob(package + "_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
    for file in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", file, root], check=True)
    return root


class Paragraphs(html.parser.HTMLParser):
    """The text of <p> elements, less those of navigation."""

    def __init__(self):
        super().__init__()
        self.open, self.parts, self.found = False, [], []

    def handle_starttag(self, tag, attributes):
        if tag == "p":
            self.open, self.parts = True, []

    def handle_endtag(self, tag):
        if tag == "p" and self.open:
            self.open = False
            self.found.append(" ".join("".join(self.parts).split()))

    def handle_data(self, data):
        if self.open:
            self.parts.append(data)


def html_paragraphs(path):
    reader = Paragraphs()
    reader.feed(path.read_text(errors="replace"))
    return reader.found


def pod_paragraphs(path):
    """Ordinary paragraphs: no commands, nothing verbatim; I<…> and the like become their text."""
    found = []
    for block in re.split(r"\n\s*\n", path.read_text(errors="replace")):
        if block[:1] in ("=", " ", "\t", ""):
            continue
        text = re.sub(r"[A-Z]<<+ (.*?) >>+", r"\1", block)
        for _ in range(4):
            text = re.sub(r"L<([^<>|]*)\|[^<>]*>", r"\1", text)
            text = re.sub(r"[BCFIL]<([^<>]*)>", r"\1", text)
        text = text.replace("E<gt>", ">").replace("E<lt>", "<")
        found.append(" ".join(text.split()))
    return found


def documents(root):
    """Lists of paragraphs, one per page, in an order that does not depend on the file system."""
    pages = sorted(root.glob("usr/share/perl/**/*.pod"))
    for path in pages:
        if not re.search(r"perl\d+delta|perl(cn|jp|ko|tw)\.pod", path.name):  # lists of changes; other languages
            yield pod_paragraphs(path)
    for pattern in ("usr/share/doc/postgresql-doc-15/html/*.html", "usr/share/doc/debian-handbook/html/en-US/*.html"):
        for path in sorted(root.glob(pattern)):
            yield html_paragraphs(path)


def prose(text):
    return len(text) > 60 and text[0].isupper() and sum(c.isalpha() or c == " " for c in text) > 0.85 * len(text)


def token_counts(tutti, texts):
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    run = subprocess.run([tutti, "tokenize", "-m", MODEL, "--jsonl"], input=lines.encode(), stdout=subprocess.PIPE,
                         check=True)
    return [len(json.loads(line)) for line in run.stdout.decode().splitlines()]


def package_texts(tutti, root):
    """Neighbouring sentences of a page, as many as fit."""
    sentences = []  # (paragraph, text)
    number = 0
    for page in documents(root):
        for paragraph in filter(prose, page):
            number += 1
            sentences += [(number, s) for s in re.split(r"(?<=[.:!?]) (?=[A-Z])", paragraph)]
        number += 1  # pages do not run together
    texts, last, used = [], None, 0
    for (paragraph, text), count in zip(sentences, token_counts(tutti, [" " + s for _, s in sentences])):
        if count > LONGEST:
            last = None
        elif last is not None and paragraph - last <= 1 and used + count + 2 <= LONGEST:
            texts[-1] += (" " if paragraph == last else "\n\n") + text
            last, used = paragraph, used + count + 2
        else:
            texts.append(text)
            last, used = paragraph, count
    texts = [t for t in dict.fromkeys(texts) if len(t) > 120]
    return [t for t, n in zip(texts, token_counts(tutti, texts)) if n <= LONGEST]


def chat(question):
    """The model's own template, without its system line."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def run_lines(tutti, path, lines, threads, *options):
    """What `tutti run` answers to the lines, which are kept at the path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = subprocess.run([tutti, "run", "-m", MODEL, "--prompts", path, "--json", "-q", "-t", str(threads), *options],
                         stdout=subprocess.PIPE, check=True)
    return [json.loads(answer) for answer in run.stdout.decode().splitlines()]


def own_answers(tutti, folder, samples, threads):
    """What the model answers at temperature 0.8; what did not end is cut behind its last sentence."""
    questions = [form.format(topic) for topic in TOPICS.split(";") for form in FORMS]
    lines = [{"prompt": chat(q), "raw": True, "n": 84, "temp": 0.8, "seed": 1 + i * samples + k}
             for i, q in enumerate(questions) for k in range(samples)]
    pairs = []
    for line, answer in zip(lines, run_lines(tutti, folder / "questions.jsonl", lines, threads)):
        text = answer["text"].strip()
        if answer["finish_reason"] != "stop":
            text = text[:max(text.rfind(c + " ") for c in ".!?") + 1]
        if len(text) > 20:
            pairs.append((line["prompt"], text))
    counts = token_counts(tutti, [p + a for p, a in pairs])
    return [pair for pair, n in zip(pairs, counts) if n + 2 <= LONGEST]


def split_text(text):
    """The first eight words are given."""
    words = text.split(" ")
    return " ".join(words[:8]), " " + " ".join(words[8:])


def write(path, lines):
    path.write_text("".join(json.dumps(l, ensure_ascii=False) + "\n" for l in lines))
    print(f"{path}: {len(lines)} lines")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tutti", default="build/release/tutti")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/smollm2-data"))
    parser.add_argument("--samples", type=int, default=4, help="answers per question")
    parser.add_argument("--texts", type=int, default=20000, help="at most so many texts of packages, of all pages alike")
    parser.add_argument("--threads", type=int, default=1)
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    texts = package_texts(o.tutti, unpack(o.out))
    texts = texts[::max(1, -(-len(texts) // o.texts))]
    pairs = own_answers(o.tutti, o.out, o.samples, o.threads)
    train = [{"text": t} for t in texts if not held_out(t)]
    train += [{"prompt": p, "answer": a} for p, a in pairs if not held_out(p)]
    write(o.out / "train.jsonl", train)
    write(o.out / "texts.jsonl", [dict(zip(("prompt", "answer"), split_text(t))) for t in texts if held_out(t)])
    write(o.out / "answers.jsonl", [{"prompt": p, "answer": a} for p, a in pairs if held_out(p)])


if __name__ == "__main__":
    main()
