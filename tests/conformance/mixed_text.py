"""Deterministic mixed text for tokenizers: code and prose of installed packages, and strings put together from
what tokenizers get wrong (white space, digits, contractions, scripts, emoji, new code points, special tokens)."""
import functools
import pathlib
import random
import sysconfig

POOL = (
    ["a", "hello", "World", "ABC", "camelCase", "don", "x"]
    + [" ", "  ", "   ", "       ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", "\v", "\f", "\x1c", "\x85"]
    + ["\u00a0", "\u1680", "\u180e", "\u2003", "\u2028", "\u3000", "\u200b", "\u200d", "\ufeff"]
    + ["1", "23", "456", "7890", "12345", "3.14", "²", "½", "٣", "५", "Ⅷ", "〇", "𝟗"]
    + ["'s", "'S", "'t", "'re", "'VE", "'ll", "'LL", "'d", "'ſ", "’s", "'", "''"]
    + ["é", "e\u0301", "\u0301", "ß", "ſ", "ÀÉ", "ǅ", "ʰ", "Å", "Å", "ﬁ", "q\u0307\u0323"]
    + ["中文", "漢字。", "日本語", "ひら", "カタカナ", "한국어", "\u1112\u1161\u11ab", "龦", "𠀀"]
    + ["Привет", "мир", "שלום", "سلام", "हिन्दी", "ไทย", "Ελλάδα", "ԱԲ", "𝔘𝔫𝔦", "𐐀𐐨"]
    + ["🙂", "👨‍👩‍👧", "🇩🇪", "❤️", "👍🏽", "\U00032000", "\U000e0041"]
    + ["\U0001e030", "\u0898", "\U00011f50", "\U0002ebf0", "\u1c89", "\ua7cb", "\U0001fae9"]
    + ["\x00", "\x7f", "!!!", "...", "$", "+", "<", "=>", "_", "__", "-", "--", "/", "//", "\\", '"']
    + ["(", ")", "[", "]", "{}", "#", "`", "^", "~", "|", "「", "」", "、", "！", "—", "“"]
    + ["https://x.y/z?q=1", "def f(x):", "a_b.c", "@user", "&amp;", "% 3", "<0x0A>", "▁", "▁▁", "Ġ", "Ċ"]
)


@functools.cache
def package_lines(count, seed=1):
    """Runs of one to four whole lines from Python and Markdown files of the installed packages."""
    root = pathlib.Path(sysconfig.get_paths()["purelib"])
    files = sorted(p for pattern in ("*/*.py", "*/*.md") for p in root.glob(pattern))
    draw = random.Random(seed)
    lines = []
    while len(lines) < count:
        try:
            text = draw.choice(files).read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        rows = text.splitlines(True)
        for _ in range(10 if len(rows) >= 10 else 0):
            start = draw.randrange(len(rows))
            lines.append("".join(rows[start : start + draw.randrange(1, 5)])[:4000])
    return lines[:count]


def mixed_lines(count, special=(), seed=2):
    """Half package text, half assembled; `special` texts are mixed in."""
    lines = list(package_lines(count // 2))
    draw = random.Random(seed)
    pool = POOL + list(special) * 2
    while len(lines) < count:
        parts = []
        for _ in range(draw.randrange(1, 24)):
            if draw.random() < 0.9:
                parts.append(draw.choice(pool))
            else:
                code = draw.randrange(0x110000 - 0x800)
                parts.append(chr(code if code < 0xD800 else code + 0x800))
        lines.append("".join(parts))
    return lines


def corpus(size):
    """About `size` characters of package text for training small vocabularies."""
    out, total = [], 0
    for line in package_lines(20000, seed=3):
        out.append(line)
        total += len(line)
        if total > size:
            break
    return out
