"""Asks `tutti serve` and llama-server the same (api_cases.py) and writes what differs, with what was decided about it, to
docs/serving-differences.md. A difference that nobody has decided about (api_decisions.py) is an error.

    bench/peers/llama.cpp/api.py [--case NAME]... [--show] [--out docs/serving-differences.md]"""

import argparse
import datetime
import re
import subprocess
import sys
import tempfile

from api_cases import CASES, KEYED, VECTORS, Client
from api_decisions import ADOPTED, DECISIONS
from compare import PEER, ROOT, find_model
from serve import Server, free_port

OURS, THEIRS = "tutti serve", "llama-server"
KEY = "a-secret"


def flat(value, path=""):
    """(place, value) of everything that a case saw."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{path}: {name}" if path else name)
    else:
        yield path, value


def shown(value):
    if isinstance(value, list):
        return ", ".join(map(str, value)) if value else "none"
    return {True: "yes", False: "no", None: "none"}.get(value, str(value)) if isinstance(value, (bool, type(None))) else str(value)


def trunk(place, other):
    """The outermost field around `place` that the other side has nothing of."""
    parts = place.split(".")
    for n in range(1, len(parts)):
        outer = ".".join(parts[:n])
        if not any(p == outer or p.startswith((outer + ".", outer + "[")) for p in other):
            return outer + " (and what is in it)"
    return place


def differences(ours, theirs):
    a, b = dict(flat(ours)), dict(flat(theirs))
    if a.get("status") != b.get("status"):  # an answer and an error have nothing else in common
        a, b = ({p: v for p, v in x.items() if not p.startswith(("fields", "error type", "content type", "ends", "events", "tokens"))} for x in (a, b))
    told = set()
    for place in [*a, *(p for p in b if p not in a)]:
        if a.get(place, "absent") == b.get(place, "absent"):
            continue
        if place not in a or place not in b:
            place = trunk(place, b if place in a else a)
        if place not in told:
            told.add(place)
            whole = "(and" in place
            here = lambda x: "there" if whole and any(p.startswith(place.split(" (and")[0]) for p in x) else shown(x.get(place, "absent"))
            yield place, here(a), here(b)


def decided(case, place, ours, theirs):
    line = f"{case} | {place} | {ours} | {theirs}"
    return next(((i, what, why) for i, (pattern, what, why) in enumerate(DECISIONS) if re.search(pattern, line)), (len(DECISIONS), "undecided", ""))


def see(run, client):
    try:
        return run(client)
    except Exception as error:  # a server that breaks the connection is a finding, too
        return {"failed": re.sub(r"\d{4,}", "N", f"{type(error).__name__}: {error}")[:120]}


def run_cases(model, wanted, say):
    seen = {}
    groups = [(CASES, [], []), (VECTORS, [], ["--embeddings", "--pooling", "mean"]), (KEYED, ["--api-key", KEY], ["--api-key", KEY])]
    for cases, our_flags, their_flags in groups:
        cases = {name: run for name, run in cases.items() if not wanted or name in wanted}
        if not cases:
            continue
        ports = free_port(), free_port()
        program = ROOT / "build" / "release" / "tutti"
        ours = [program, "serve", "-m", model, "-t", "1", "-q", "-a", "model", "--port", ports[0], *our_flags]
        theirs = [PEER / "build" / "bin" / "llama-server", "-m", model, "-t", "1", "-np", "4", "-c", "32768", "-a", "model", "--metrics",
                  "--port", ports[1], *their_flags]
        with Server(ours, ports[0], tempfile.TemporaryFile()), Server(theirs, ports[1], tempfile.TemporaryFile()):
            key = KEY if our_flags else None
            clients = [Client(port, "model", key) for port in ports]
            for name, run in cases.items():
                seen[name] = [see(run, client) for client in clients]
                say(name)
    return seen


def table(seen):
    """Differences by what was decided, those of one kind in one line."""
    rows = {}
    for case, (ours, theirs) in seen.items():
        for place, a, b in differences(ours, theirs):
            number, what, why = decided(case, place, a, b)
            rows.setdefault((number, what, why), []).append((case, place, a, b))
    return rows


def version():
    done = subprocess.run([PEER / "build" / "bin" / "llama-server", "--version"], capture_output=True, text=True)
    found = re.search(r"version: (\S+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def rows_of(found):
    """Those that differ in the same way in one line, with the cases where they do."""
    alike = {}
    for case, place, a, b in found:
        alike.setdefault((place, a, b), []).append(case)
    for (place, a, b), cases in alike.items():
        more = f" and {len(cases) - 5} more" if len(cases) > 6 else ""
        yield "; ".join(cases[:5] if more else cases) + more, place, a, b


def document(seen, rows):
    same = sum(not list(differences(*pair)) for pair in seen.values())
    lines = ["# What differs from llama-server", "",
             f"The same {len(seen)} questions (`bench/peers/llama.cpp/api_cases.py`) were put to `tutti serve` and to llama-server (build "
             f"{version()}) on SmolLM2-135M on {datetime.date.today()}; in {same} both did the same in everything that was looked at: statuses, "
             "fields and their types, and facts such as whether a seed reproduces. `bench/peers/llama.cpp/api.sh` asks again and writes this page; a "
             "difference that is not in `api_decisions.py` is an error there. Texts are not compared; where one side refuses, only that is.", "",
             "*Kept*: ours stays, for the reason given. *Adopted*: ours was changed, so that the table no longer shows it. *Not theirs*: they do "
             "not have it.", "", "## Adopted", "", *(f"- {what}" for what in ADOPTED), ""]
    for what in ("kept", "not theirs", "undecided"):
        mine = [(why, found) for (_, decision, why), found in sorted(rows.items(), key=lambda row: row[0][0]) if decision == what]
        if not mine:
            continue
        lines += [f"## {what.capitalize()}", "", "| in | what | ours | theirs | why |", "|---|---|---|---|---|"]
        for why, found in mine:
            for i, row in enumerate(rows_of(found)):
                lines.append("| " + " | ".join(map(cell, (*row, why if i == 0 else "as above"))) + " |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", help="only this one; may be repeated; nothing is written")
    parser.add_argument("--show", action="store_true", help="prints every difference")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", default=str(ROOT / "docs" / "serving-differences.md"))
    o = parser.parse_args()
    seen = run_cases(find_model(o.model), o.case, lambda name: print(name, file=sys.stderr, flush=True))
    rows = table(seen)
    for (_, what, _), found in sorted(rows.items(), key=lambda row: row[0][0]):
        for case, place, a, b in found:
            if o.show or what == "undecided":
                print(f"{what}: {case} | {place} | {a} | {b}")
    if not o.case:
        with open(o.out, "w") as file:
            file.write(document(seen, rows))
    if any(what == "undecided" for _, what, _ in rows):
        sys.exit("api: there are differences that nobody has decided about")


if __name__ == "__main__":
    main()
