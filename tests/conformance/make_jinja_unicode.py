"""Writes src/text/jinja_unicode.inc: the case, space and printability tables of Python's unicodedata.

Run: .venv/bin/python tests/conformance/make_jinja_unicode.py
"""
import pathlib
import sys
import unicodedata

LAST = 0x110000


def runs(mapping):
    """(first, last, stride, delta) over code points that map alike."""
    out = []
    for c in sorted(mapping):
        delta = mapping[c] - c
        if out and out[-1][3] == delta:
            first, last, stride, _ = out[-1]
            if first == last and c - last <= 2:
                out[-1] = (first, c, c - last, delta)
                continue
            if c - last == stride:
                out[-1] = (first, c, stride, delta)
                continue
        out.append((c, c, 1, delta))
    return out


def ranges(test):
    out, start = [], None
    for c in range(LAST + 1):
        on = c < LAST and test(chr(c))
        if on and start is None:
            start = c
        if not on and start is not None:
            out.append((start, c - 1))
            start = None
    return out


def emit(kind, name, rows):
    body = ", ".join("{" + ", ".join(str(x) for x in row) + "}" for row in rows)
    lines, line = [], "   "
    for word in body.split(" "):
        if len(line) + len(word) + 1 > 100:
            lines.append(line)
            line = "   "
        line += " " + word
    lines.append(line)
    return f"constexpr {kind} {name}[] = {{\n" + "\n".join(lines) + "};\n"


def main():
    upper, lower, special, title = {}, {}, [], []
    for c in range(LAST):
        s = chr(c)
        if len(s.upper()) == 1:
            if s.upper() != s:
                upper[c] = ord(s.upper())
        else:
            special.append((c, [ord(x) for x in s.upper()]))
        if s.title() != s.upper():
            title.append((c, [ord(x) for x in s.title()]))
        if len(s.lower()) == 1 and s.lower() != s:
            lower[c] = ord(s.lower())
    text = (
        "// Made by tests/conformance/make_jinja_unicode.py from Unicode "
        f"{unicodedata.unidata_version}; do not edit.\n// clang-format off\n"
    )
    text += emit("CaseRun", "kUpper", runs(upper))
    text += emit("CaseRun", "kLower", runs(lower))
    for name, table in (("kLongUpper", special), ("kTitle", title)):
        rows = [(c, "{" + ", ".join(map(str, (x + [0, 0])[:3])) + "}") for c, x in table]
        text += emit("LongCase", name, rows)
    text += emit("Range", "kUnprintable", ranges(lambda s: not s.isprintable()))
    text += emit("Range", "kUppercase", ranges(str.isupper))
    text += emit("Range", "kLowercase", ranges(str.islower))
    text += emit("Range", "kLetter", ranges(str.isalpha))
    text += emit("Range", "kDigit", ranges(str.isdigit))
    path = pathlib.Path(__file__).resolve().parents[2] / "src/text/jinja_unicode.inc"
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
