"""`tutti quantize` against the Python package gguf, real files of llama.cpp, and the folders it converts."""

import filecmp
import json
import signal
import subprocess
import time
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import quants
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import program
import real_models
import tiny_checkpoints
from closeness import check_close, check_same_bits
from gguf_metadata import read_metadata
from mixed_text import corpus, mixed_lines
from test_tokenizers import (BYTES, DIGITS_GPT2, GPT2_STEP, LLAMA3, QWEN2, TEKKEN, VOCABULARIES, compare, split,
                             tutti)

SIMPLE = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_TYPES = ["Q4_K", "Q5_K", "Q6_K"]
LLAMA_QUANTIZE = program.ROOT / ".cache/peers/llama.cpp/build/bin/llama-quantize"


def quantize(model, out, kind, *options) -> dict:
    return json.loads(program.run("quantize", "-m", model, out, kind, "--json", *options))


def refused(*arguments) -> str:
    """The message of a command that must fail for its usage (2) or its files (1)."""
    done = subprocess.run([program.path(), "quantize", *map(str, arguments), "--json"], capture_output=True, text=True)
    assert done.returncode in (1, 2) and done.stdout == "", (done.returncode, done.stdout, done.stderr)
    return f"{done.returncode}: {done.stderr}"


def tensors(path) -> dict:
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def values(tensor) -> np.ndarray:
    return quants.dequantize(tensor.data, tensor.tensor_type)


def write_llama(path, contents: dict, layers=1, **more) -> Path:
    """A file whose metadata describes a Llama, with the given tensors: (array, type or None for the array's)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in more.items():
        writer.add_string(key, value)
    contents = {"token_embd.weight": (np.zeros((8, 64), np.float32), None)} | contents
    for name, (array, kind) in contents.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- block types against gguf-py ----


def random_blocks(kind: T, rows: int, columns: int, rng) -> np.ndarray:
    """Any bits, but for scales and minima: finite halfs of every size, zero and subnormal ones included."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    halfs = {T.Q8_0: [0], T.Q4_0: [0], T.Q5_0: [0], T.Q4_1: [0, 2], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
             T.Q6_K: [208]}[kind]
    extreme = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC01], np.uint16)
    for at in halfs:
        bits = rng.integers(0, 1 << 16, raw.shape[:2], dtype=np.uint16)
        bits = np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype(np.uint16)
        bits[0] = np.resize(extreme, bits.shape[1])
        raw[:, :, at:at + 2] = bits[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def test_blocks_mean_what_gguf_py_says(tmp_path):
    rng = np.random.default_rng(1)
    contents = {}
    for name in SIMPLE + K_TYPES:
        contents[f"blk.0.{name}.weight"] = (random_blocks(T[name], 16, 256 * 9, rng), T[name])
    halfs = rng.integers(0, 1 << 16, (16, 256), dtype=np.uint16)
    halfs[(halfs & 0x7C00) == 0x7C00] = 0x0001
    contents["blk.0.F16.weight"] = (halfs.view(np.float16), None)
    bf16 = rng.integers(0, 1 << 16, (16, 256), dtype=np.uint16)
    bf16[(bf16 & 0x7F80) == 0x7F80] = 0x8001
    contents["blk.0.BF16.weight"] = (bf16.view(np.uint8), T.BF16)
    source = write_llama(tmp_path / "blocks.gguf", contents)
    quantize(source, tmp_path / "f32.gguf", "F32", "--allow-requantize")
    got = tensors(tmp_path / "f32.gguf")
    for name, tensor in tensors(source).items():
        assert got[name].tensor_type == T.F32
        ours, theirs = got[name].data.view(np.uint32), values(tensor).astype(np.float32).view(np.uint32)
        assert ours.shape == theirs.shape and np.array_equal(ours, theirs), name


def awkward_numbers(rng) -> np.ndarray:
    """Rows of 256 in blocks of 32: all sizes, constants, zeros, one-sided, ties, outliers."""
    rows = [rng.normal(0, s, 256) for s in (1e-30, 1e-6, 1e-3, 1, 1, 1, 30, 1e3) for _ in range(6)]
    rows += [np.zeros(256), np.full(256, 3.25), np.full(256, -0.7), np.abs(rng.normal(0, 1, 256)),
             -np.abs(rng.normal(0, 1, 256)), rng.integers(-127, 128, 256), rng.integers(-16, 17, 256) / 2,
             np.where(rng.random(256) < 0.03, 500, rng.normal(0, 1, 256)), np.linspace(-1, 1, 256)]
    return np.stack(rows).astype(np.float32)


def test_quantisers_give_the_bytes_of_gguf_py(tmp_path):
    x = awkward_numbers(np.random.default_rng(2))
    kinds = SIMPLE + ["F16", "BF16"]
    source = write_llama(tmp_path / "x.gguf", {f"blk.0.{k}.weight": (x, None) for k in kinds})
    overrides = [o for k in kinds for o in ("--tensor-type", rf"\.{k}\.={k}")]
    report = quantize(source, tmp_path / "y.gguf", "F32", *overrides)
    got = tensors(tmp_path / "y.gguf")
    reported = {t["name"]: t for t in report["tensors"]}
    for k in kinds:
        name = f"blk.0.{k}.weight"
        assert got[name].tensor_type == T[k]
        expected = quants.quantize(x, T[k])
        different = np.argwhere(got[name].data.view(np.uint8).reshape(len(x), -1) != expected.view(np.uint8))
        assert len(different) == 0, f"{k}: {len(different)} bytes differ, first in row {different[0][0]}"
        # The report says what gguf-py's values say.
        error = quants.dequantize(expected, T[k]).astype(np.float64) - x
        assert reported[name]["rms_error"] == pytest.approx(np.sqrt((error ** 2).mean()), rel=1e-6), k
        assert reported[name]["max_error"] == pytest.approx(np.abs(error).max(), rel=1e-6), k
        assert reported[name]["bytes"] == expected.nbytes


def test_k_types_are_no_worse_than_llama_cpp(tmp_path):
    """Also the types of every tensor, and the simple types' bytes."""
    if not LLAMA_QUANTIZE.exists():
        pytest.skip("llama.cpp is not built: bash bench/peers/llama.cpp/build.sh")
    source = tmp_path / "f32.gguf"
    quantize(real_models.smollm2(), source, "F32", "--allow-requantize")
    original = tensors(source)
    for kind in ["Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"]:
        quantize(source, tmp_path / "ours.gguf", kind, "--force")
        subprocess.run([LLAMA_QUANTIZE, source, tmp_path / "theirs.gguf", kind], check=True, capture_output=True)
        ours, theirs = tensors(tmp_path / "ours.gguf"), tensors(tmp_path / "theirs.gguf")
        assert {n: t.tensor_type for n, t in ours.items()} == {n: t.tensor_type for n, t in theirs.items()}, kind
        for name, t in theirs.items():
            if t.tensor_type.name in K_TYPES:
                rms = [np.sqrt(((values(q[name]) - original[name].data) ** 2).mean()) for q in (ours, theirs)]
                assert rms[0] <= 1.02 * rms[1], (kind, name, rms)
            else:
                assert np.array_equal(ours[name].data, t.data), (kind, name)


# ---- real files ----


@pytest.fixture(scope="module")
def smollm2_f32(tmp_path_factory):
    path = tmp_path_factory.mktemp("smollm2") / "f32.gguf"
    quantize(real_models.smollm2(), path, "F32", "--allow-requantize")
    yield path
    path.unlink()


@cache
def perplexity(path) -> float:
    """Of two short windows, fp32 arithmetic: what is measured is the weights."""
    return json.loads(program.run("eval", "perplexity", "-m", path, "-f", real_models.text(), "-c", 256, "--tokens",
                                  512, "--arithmetic", "exact-f32", "--json"))["ppl"]


def test_own_types_give_the_same_file(tmp_path):
    source = real_models.smollm2()
    report = quantize(source, tmp_path / "same.gguf", "Q4_1")  # without --allow-requantize: nothing is lost
    assert all(t["copied"] and t["rms_error"] == 0 for t in report["tensors"])
    assert filecmp.cmp(source, tmp_path / "same.gguf", shallow=False)
    quantize(source, tmp_path / "copy.gguf", "COPY")
    assert filecmp.cmp(source, tmp_path / "copy.gguf", shallow=False)


@pytest.mark.parametrize("model, kind", [(real_models.smollm2, "Q4_1"), (real_models.gemma3, "Q4_K_M")])
def test_types_are_those_of_published_files(model, kind, tmp_path):
    """Both files were made by llama.cpp; asked for the same type, every tensor would get the type that it has."""
    report = quantize(model(), tmp_path / "none.gguf", kind, "--dry-run", "--allow-requantize")
    assert not (tmp_path / "none.gguf").exists()
    assert [t["name"] for t in report["tensors"] if t["from"] != t["to"]] == []
    assert len(report["tensors"]) > 200
    assert report["total"]["bytes"] == report["total"]["bytes_before"]


def test_widened_values_are_gguf_pys(smollm2_f32):
    original, widened = tensors(real_models.smollm2()), tensors(smollm2_f32)
    assert list(original) == list(widened)
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.17.ffn_down.weight", "blk.29.ffn_norm.weight"]:
        rows = slice(-1, -2000, -1) if len(original[name].shape) > 1 else slice(None)
        expected = quants.dequantize(original[name].data[rows], original[name].tensor_type)
        assert np.array_equal(widened[name].data[rows].view(np.uint32), expected.view(np.uint32)), name


def test_quantised_again_the_embedding_has_its_old_bytes(smollm2_f32, tmp_path):
    """A Q8_0 block's largest code is 127 or -127: its values give the same scale and codes again."""
    out = tmp_path / "q4_1.gguf"
    quantize(smollm2_f32, out, "Q4_1")
    original, again = tensors(real_models.smollm2()), tensors(out)
    assert np.array_equal(original["token_embd.weight"].data, again["token_embd.weight"].data)
    for name in ["blk.3.attn_v.weight", "blk.29.ffn_down.weight"]:
        assert np.array_equal(again[name].data, quants.quantize(values(original[name]), T.Q4_1)), name
    assert read_metadata(out) == read_metadata(real_models.smollm2())


# The file's weights lie on Q4_1's grid of 16 levels. On Q8_0's perplexity falls by 1.4 % over so few tokens; on
# Q5_1's 32 levels, which 576-wide rows of Q5_K_M fall back to, all middle levels move alike, and it costs 15 %. That
# this is the formats' doing is what the comparison of bytes below shows.
@pytest.mark.parametrize("kind, allowed, relative_rms", [
    ("BF16", 0.005, 0.0018), ("Q8_0", 0.02, 0.006), ("Q5_K_M", 0.16, 0.04), ("Q4_K_M", 0.06, 0.08)])
def test_perplexity_stays(smollm2_f32, tmp_path, kind, allowed, relative_rms):
    before = perplexity(real_models.smollm2())
    report = quantize(smollm2_f32, tmp_path / "q.gguf", kind)
    assert 0 < report["total"]["relative_rms"] < relative_rms
    after = perplexity(tmp_path / "q.gguf")
    print(f"{kind}: perplexity {before:.3f} -> {after:.3f}, {report['total']}")
    assert after == pytest.approx(before, rel=allowed)
    bits = 8 * report["total"]["bytes"] / report["total"]["elements"]
    assert report["total"]["bits_per_weight"] == pytest.approx(bits)
    # gguf-py reads the result, and its values are as far from the originals as the report says.
    wide, narrow = tensors(smollm2_f32), tensors(tmp_path / "q.gguf")
    for t in report["tensors"][5:60:11]:
        error = values(narrow[t["name"]]).astype(np.float64) - wide[t["name"]].data
        assert t["to"] == narrow[t["name"]].tensor_type.name
        assert t["rms_error"] == pytest.approx(np.sqrt((error ** 2).mean()), rel=1e-5, abs=1e-12)
        assert t["max_error"] == pytest.approx(np.abs(error).max(), rel=1e-5, abs=1e-12)
    simple = [t for t in report["tensors"] if t["to"] in ("Q8_0", "Q5_1", "Q5_0")]
    assert simple or kind == "BF16"
    for t in simple[5:40:7]:
        assert np.array_equal(narrow[t["name"]].data, quants.quantize(wide[t["name"]].data, T[t["to"]])), t["name"]


# ---- folders ----

# What no GGUF file can say: layers without experts after the first ones that have them.
INEXPRESSIBLE = {"qwen2-moe-normalised-partly-dense": "experts", "qwen3-moe-every-second": "experts"}
# write_gguf puts its own values there: the folder's tokenizer has no merges and declares no token special.
MADE_UP = ("general.name", "tokenizer.ggml.merges", "tokenizer.ggml.token_type")
IDS = list(np.random.default_rng(3).integers(0, 250, 40))


@pytest.mark.parametrize("family", tiny_checkpoints.FAMILIES, ids=str)
def test_folder_becomes_the_same_model(family, tmp_path):
    folder = tiny_checkpoints.write_folder(family, tiny_checkpoints.make_model(family), tmp_path / "folder")
    out = tmp_path / "ours.gguf"
    if family.name in INEXPRESSIBLE:
        message = refused("-m", folder, out, "F32")
        assert "which layers have " + INEXPRESSIBLE[family.name] in message and not out.exists()
        return
    report = quantize(folder, out, "F32")
    assert report["notes"] == []
    ours = program.logits(out, IDS, tiny_checkpoints.VOCAB, tmp_path / "ours.f32")
    theirs = program.logits(folder, IDS, tiny_checkpoints.VOCAB, tmp_path / "theirs.f32")
    if family.gguf_same_bits:
        check_same_bits(f"{family}: GGUF, folder", ours, theirs)
    else:
        check_close(f"{family}: GGUF, folder", ours, theirs, 1e-5)
    if family.gguf_arch is None:
        return
    # Tensors as gguf-py writes them by the published rules.
    expected = tensors(tiny_checkpoints.write_gguf(family, folder, tmp_path / "theirs.gguf"))
    got = tensors(out)
    assert sorted(got) == sorted(expected)
    for name, t in expected.items():
        assert (list(got[name].shape), got[name].tensor_type) == (list(t.shape), t.tensor_type), name
        if name == "rope_freqs.weight":
            assert np.allclose(got[name].data, t.data, rtol=1e-6, atol=0)
        else:
            assert np.array_equal(got[name].data.view(np.uint32), t.data.view(np.uint32)), name
    metadata = read_metadata(out)
    for key, value in read_metadata(tmp_path / "theirs.gguf").items():
        assert key in MADE_UP or metadata[key] == value, key


def test_half_types_of_a_folder(tmp_path):
    """COPY keeps matrices as they are; F32 and BF16 of a BF16 folder hold the same values; norms are F32."""
    family = next(f for f in tiny_checkpoints.FAMILIES if f.name == "llama-bf16")
    folder = tiny_checkpoints.write_folder(family, tiny_checkpoints.make_model(family), tmp_path / "folder")
    wide = (quantize(folder, tmp_path / "f32.gguf", "F32"), tensors(tmp_path / "f32.gguf"))[1]
    for kind in ["COPY", "BF16"]:
        quantize(folder, tmp_path / f"{kind}.gguf", kind)
        same = tensors(tmp_path / f"{kind}.gguf")
        assert read_metadata(tmp_path / f"{kind}.gguf")["general.file_type"] == 32
        for name, t in same.items():
            assert t.tensor_type == (T.F32 if "norm" in name else T.BF16), name
            assert np.array_equal(values(t).view(np.uint32), wide[name].data.view(np.uint32)), name


def test_threads_do_not_change_a_bit(tmp_path):
    family = next(f for f in tiny_checkpoints.FAMILIES if f.name == "mixtral")
    folder = tiny_checkpoints.write_folder(family, tiny_checkpoints.make_model(family), tmp_path / "folder")
    reports = [quantize(folder, tmp_path / f"{t}.gguf", "Q5_0", "-t", t) for t in (1, 3)]
    assert filecmp.cmp(tmp_path / "1.gguf", tmp_path / "3.gguf", shallow=False)
    assert reports[0]["tensors"] == reports[1]["tensors"]


# ---- importances ----


def test_importances_move_the_error(tmp_path):
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (64, 512)).astype(np.float32)
    stack = rng.normal(0, 1, (2, 32, 256)).astype(np.float32)
    names = {"blk.0.ffn_up.weight": x, "blk.0.ffn_gate_exps.weight": stack}
    source = write_llama(tmp_path / "x.gguf", {n: (v, None) for n, v in names.items()})
    importance = {n: np.where(rng.random((*v.shape[:-2], v.shape[-1])) < 0.1, 50, 0.05).astype(np.float32)
                  for n, v in names.items()}
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "llama")
    writer.add_string("general.type", "imatrix")
    for name, v in importance.items():
        counts = np.full((v.shape[0] if v.ndim > 1 else 1, 1), 7, np.float32)
        writer.add_tensor(name + ".in_sum2", v.reshape(len(counts), -1) * counts)
        writer.add_tensor(name + ".counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for kind in ["Q4_K", "Q4_0"]:
        quantize(source, tmp_path / "plain.gguf", kind, "--pure", "--force")
        quantize(source, tmp_path / "guided.gguf", kind, "--pure", "--force", "--imatrix", tmp_path / "imatrix.gguf")
        for name, v in names.items():
            w = importance[name][..., None, :]
            error = [(w * (values(tensors(tmp_path / f)[name]) - v) ** 2).sum() for f in ("plain.gguf", "guided.gguf")]
            assert error[1] < 0.85 * error[0], (kind, name, error)
    assert "no importance matrix" in refused("-m", source, tmp_path / "y.gguf", "Q4_0", "--imatrix", source)


# ---- tokenizers ----


def model_folder(folder: Path, vocab: int) -> Path:
    """The smallest Llama with that vocabulary, beside the folder's tokenizer.json."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=32, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=32, vocab_size=vocab, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e4,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)))
    square = np.eye(32, dtype=np.float16)
    weights = {f"model.layers.0.{part}.weight": square for part in
               ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                "mlp.up_proj", "mlp.down_proj"]}
    norms = {n: np.ones(32, np.float16) for n in ["model.norm.weight", "model.layers.0.input_layernorm.weight",
                                                  "model.layers.0.post_attention_layernorm.weight"]}
    save_file(weights | norms | {"model.embed_tokens.weight": np.zeros((vocab, 32), np.float16)},
              folder / "model.safetensors")
    return folder


def check_encodes_alike(folder, tokenizer, lines, extra_rows=3):
    model_folder(folder, tokenizer.get_vocab_size() + extra_rows)
    report = quantize(folder, folder / "out.gguf", "COPY")
    got = tutti(folder / "out.gguf", lines)
    compare(got, [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti(folder / "out.gguf", got, "--decode"), tokenizer.decode_batch(got, skip_special_tokens=False), lines)
    tokens = read_metadata(folder / "out.gguf")["tokenizer.ggml.tokens"]
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    return report


@pytest.mark.parametrize("name, pre_tokenizer, normalizer, ignore_merges", [
    ("gpt-2", GPT2_STEP, None, False), ("smollm", DIGITS_GPT2, None, False), ("llama-bpe", split(LLAMA3), None, True),
    ("qwen2", split(QWEN2), normalizers.NFC(), False), ("tekken", split(TEKKEN), None, True)])
def test_byte_level_tokenizer_survives(tmp_path, name, pre_tokenizer, normalizer, ignore_merges):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(200_000), trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, special_tokens=["<|end|>"], initial_alphabet=BYTES))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(dict(
        bos_token="<|end|>", add_bos_token=True, chat_template="{{ messages[0].content }}!")))
    report = check_encodes_alike(tmp_path, tokenizer, mixed_lines(1500, ["<|end|>", "<tool>"], seed=21))
    assert len(report["notes"]) == (1 if normalizer else 0)
    fields = read_metadata(tmp_path / "out.gguf")
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == name
    assert fields["tokenizer.ggml.bos_token_id"] == 0 and fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.chat_template"] == "{{ messages[0].content }}!"
    types = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]))
    assert (types["<|end|>"], types["<tool>"], types["a"]) == (3, 4, 1)


def sentencepiece_folder(folder, metadata, normalizer, pre_tokenizer, decoder):
    """tokenizer.json of a SentencePiece vocabulary by transformers' rule: every pair of pieces that makes a piece is a
    merge, by descending score of what it makes."""
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    tokens = [t.replace(" ", "▁") if k == 4 else t for t, k in zip(tokens, kinds)]
    ids = {t: i for i, t in enumerate(tokens)}
    # Of user-defined pieces SentencePiece keeps the score 0, above all others; the file says -1000.
    score = [0.0 if k == 4 else s for s, k in zip(metadata["tokenizer.ggml.scores"], kinds)]
    merges = []
    for token, i in ids.items():
        if kinds[i] in (2, 3, 6):
            continue
        pairs = [(token[:c], token[c:]) for c in range(1, len(token)) if token[:c] in ids and token[c:] in ids]
        merges += [(score[i], -i, ids[a], ids[b], a, b) for a, b in pairs]
    merges.sort(key=lambda m: (-m[0], -m[1], m[2], m[3]))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(a, b) for *_, a, b in merges], unk_token="<unk>",
                                     byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoder
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, kinds) if k in (2, 3)])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, kinds) if k == 4])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


SPM_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


@pytest.mark.parametrize("name", ["llama-2", "first-prefix"])
def test_sentencepiece_tokenizer_survives(tmp_path, name):
    vocabulary = VOCABULARIES / "ggml-vocab-llama-spm.gguf"
    if not vocabulary.exists():
        pytest.skip("no peer: bash bench/peers/llama.cpp/fetch.sh")
    metadata = read_metadata(vocabulary)
    legacy = name == "llama-2"
    tokenizer = sentencepiece_folder(
        tmp_path, metadata,
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]) if legacy else None,
        None if legacy else pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        decoders.Sequence(SPM_DECODER + [decoders.Strip(" ", 1, 0)]))
    report = check_encodes_alike(tmp_path, tokenizer, mixed_lines(1500, ["<s>", "</s>"], seed=22))
    assert len(report["notes"]) == (0 if legacy else 1)
    fields = read_metadata(tmp_path / "out.gguf")
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"] is True
    assert fields["tokenizer.ggml.token_type"][:len(metadata["tokenizer.ggml.tokens"])] == metadata["tokenizer.ggml.token_type"]
    # Scores in the order of the vocabulary's own.
    known = [(s, ours) for s, ours, k in zip(metadata["tokenizer.ggml.scores"], fields["tokenizer.ggml.scores"],
                                             metadata["tokenizer.ggml.token_type"]) if k == 1 and ours < 0]
    assert len(known) > 25000 and [o for _, o in sorted(known, reverse=True)] == sorted((o for _, o in known), reverse=True)


def test_gemma_tokenizer_survives(tmp_path):
    metadata = read_metadata(real_models.gemma3())
    tokenizer = sentencepiece_folder(tmp_path, metadata, normalizers.Replace(" ", "▁"),
                                     pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence(SPM_DECODER))
    # The vocabulary's longest run of spaces is 31; a longer one is cut greedily here, merged from short ones there.
    lines = [l for l in mixed_lines(1500, ["<start_of_turn>", "   ", "\n\n\n"], seed=23)
             if "▁" not in l and " " * 32 not in l]
    assert len(lines) > 1300
    report = check_encodes_alike(tmp_path, tokenizer, lines)
    assert len(report["notes"]) == 1 and "more than 31 spaces" in report["notes"][0]


def edited(tokenizer_json: Path, change):
    saved = json.loads(tokenizer_json.read_text())
    change(saved)
    tokenizer_json.write_text(json.dumps(saved))


def cut_at_words(tokenizer: dict):
    """A pre-tokenizer without a name, and a merge, for which it matters where text is cut."""
    tokenizer["pre_tokenizer"] = json.loads(split("[a-z]+").__getstate__())
    model = tokenizer["model"]
    model["vocab"]["ab"] = model["vocab"].pop("<extra_0>")
    model["merges"] = [["a", "b"]]


@pytest.mark.parametrize("what, change, message", [
    ("pre-tokenizer", cut_at_words, "pre-tokenizer"),
    ("prefix space", lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "pre-tokenizer"),
    ("normalizer", lambda t: t.update(normalizer={"type": "Prepend", "prepend": "x"}), "normalizer"),
    ("lstrip", lambda t: t["added_tokens"][0].update(lstrip=True), "white space"),
    ("single word", lambda t: t["added_tokens"][0].update(single_word=True), "word borders"),
    ("merges", lambda t: t["model"].update(ignore_merges=True), "pre-tokenizer"),
])
def test_tokenizers_that_gguf_cannot_say_are_refused(tmp_path, what, change, message):
    tokenizer, names = tiny_checkpoints.tiny_tokenizer()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model_folder(tmp_path, len(names))
    quantize(tmp_path, tmp_path / "good.gguf", "COPY")
    edited(tmp_path / "tokenizer.json", change)
    said = refused("-m", tmp_path, tmp_path / "bad.gguf", "COPY")
    assert said.startswith("1: ") and message in said and "cannot say" in said
    assert not (tmp_path / "bad.gguf").exists()


def test_merges_that_are_no_scores_are_refused(tmp_path):
    """BPE over characters whose merges are not all pairs: SentencePiece would merge what it does not."""
    ids = {t: i for i, t in enumerate(["<unk>", "▁", "a", "b", "c", "ab", "bc", "abc"])}

    def convert(merges):
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(SPM_DECODER)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        model_folder(tmp_path, len(ids))

    convert([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")])
    quantize(tmp_path, tmp_path / "good.gguf", "COPY")
    convert([("a", "b"), ("b", "c"), ("ab", "c")])
    assert '"a" and "bc"' in refused("-m", tmp_path, tmp_path / "bad.gguf", "COPY")
    convert([("ab", "c"), ("a", "b"), ("a", "bc"), ("b", "c")])
    assert "do not stand together" in refused("-m", tmp_path, tmp_path / "bad.gguf", "COPY")


# ---- what goes wrong ----


def test_usage_errors(tmp_path):
    x = np.ones((4, 256), np.float32)
    source = write_llama(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": (x, None)})
    out = tmp_path / "y.gguf"
    unknown = refused("-m", source, out, "Q3_K")
    assert unknown.startswith("2: ") and all(t in unknown for t in ("Q3_K", "Q4_K_M", "Q8_0", "F16", "COPY"))
    assert "is the input" in refused("-m", source, source, "Q8_0", "--force")
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    assert "is the input" in refused("-m", source, link, "Q8_0", "--force")
    quantize(source, out, "Q8_0")
    before = out.read_bytes()
    assert "--force" in refused("-m", source, out, "Q4_0") and out.read_bytes() == before
    quantize(source, out, "Q4_0", "--force")
    assert out.read_bytes() != before
    again = refused("-m", out, tmp_path / "z.gguf", "Q8_0")
    assert "--allow-requantize" in again and "Q4_0" in again and not (tmp_path / "z.gguf").exists()
    assert "nothing_like_it" in refused("-m", source, tmp_path / "z.gguf", "Q8_0", "--tensor-type", "nothing_like_it=F16")
    assert "PATTERN=TYPE" in refused("-m", source, tmp_path / "z.gguf", "Q8_0", "--tensor-type", "F16")
    assert "Q9_K" in refused("-m", source, tmp_path / "z.gguf", "Q8_0", "--output-tensor-type", "Q9_K")
    assert "is a folder" in refused("-m", source, tmp_path, "Q8_0")


@pytest.mark.parametrize("value, kind, message", [
    (np.nan, "Q8_0", "no finite numbers"), (np.inf, "Q4_K", "no finite numbers"), (1e6, "F16", "too large for F16"),
    (1e30, "Q8_0", "too large for Q8_0")])
def test_values_that_do_not_fit_are_named(tmp_path, value, kind, message):
    x = np.ones((40, 256), np.float32)
    x[33, 5] = value
    source = write_llama(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": (x, None)})
    said = refused("-m", source, tmp_path / "y.gguf", kind)
    assert message in said and "ffn_up" in said and "row 33" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.gguf"]


def test_a_killed_run_leaves_nothing_that_loads(smollm2_f32, tmp_path):
    run = subprocess.Popen([program.path(), "quantize", "-m", smollm2_f32, tmp_path / "q.gguf", "Q6_K", "-t", "1"],
                           stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(p.stat().st_size > 1 << 20 for p in tmp_path.iterdir()):
        time.sleep(0.01)
    assert run.poll() is None, "it was done before it could be killed"
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "q.gguf").exists()
    for left in tmp_path.iterdir():
        assert left.suffix != ".gguf"
        done = subprocess.run([program.path(), "inspect", left], capture_output=True, text=True)
        assert done.returncode == 1 and "cut" in done.stderr + done.stdout or "beyond" in done.stderr, done.stderr


def test_text_output(tmp_path):
    x = np.ones((4, 192), np.float32)
    source = write_llama(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": (x, None)})
    for dry in (["--dry-run"], []):
        lines = program.run("quantize", "-m", source, tmp_path / "y.gguf", "Q4_K_M", *dry).splitlines()
        assert any("blk.0.ffn_up.weight" in l and "[192, 4]" in l and "F32 -> Q5_0" in l and "do not fit Q4_K" in l
                   for l in lines), lines
        assert "bits a weight" in lines[-1] and lines[-1].startswith("2 tensors")
        assert ("RMS" in lines[-1]) == (not dry)
