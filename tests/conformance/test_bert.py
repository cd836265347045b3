"""BERT encoders against transformers' BertModel: states, vectors, and bits that do not depend on company."""

import json
import subprocess

import numpy as np
import program
import pytest
import real_models
import torch
from closeness import check_close
from tiny_bert import make_model

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Grüße aus Köln", "A", "",
         "def f(x):\n    return x ** 2  # a comment, and more words that make the text longer than the others"]
PAIRS = [["how many people live in Berlin?", "Berlin has 3,520,031 registered inhabitants."], ["a", ""]]
CASES = {
    "base-like": {},
    "one-wide-head": dict(num_attention_heads=1, num_hidden_layers=1),
    "tanh-gelu": dict(hidden_act="gelu_new"),
    "relu": dict(hidden_act="relu", layer_norm_eps=1e-5),
    "three-types": dict(type_vocab_size=3),
}


def embedded(folder, inputs, *options):
    """What `tutti embed` prints for each of the texts and pairs."""
    command = [str(program.path()), "embed", "-m", str(folder), "--jsonl", *options]
    done = subprocess.run(command, input="".join(json.dumps(i) + "\n" for i in inputs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@torch.no_grad()
def reference(model, encoding):
    return model(input_ids=torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids])) \
        .last_hidden_state[0].numpy()


def check_states(label, folder, model, tokenizer, inputs):
    for given, ours in zip(inputs, embedded(folder, inputs, "--states"), strict=True):
        encoding = tokenizer.encode(*given) if isinstance(given, list) else tokenizer.encode(given)
        assert ours["tokens"] == encoding.ids
        check_close(f"{label}, {given!r}", np.array(ours["states"]), reference(model, encoding), 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_states_are_those_of_transformers(name, tmp_path):
    model, tokenizer = make_model(tmp_path, **CASES[name])
    check_states(name, tmp_path, model, tokenizer, TEXTS + PAIRS)


def test_kinds_of_tokens_matter(tmp_path):
    """The comparison above can fail: without its kinds, a pair has other states by far."""
    model, tokenizer = make_model(tmp_path)
    ours = np.array(embedded(tmp_path, PAIRS[:1], "--states")[0]["states"])
    encoding = tokenizer.encode(*PAIRS[0])
    with torch.no_grad():
        one_kind = model(input_ids=torch.tensor([encoding.ids])).last_hidden_state[0].numpy()
    assert np.abs(ours - one_kind).max() > 1e-2 * np.abs(one_kind).max()


@pytest.fixture(scope="module")
def minilm():
    return real_models.minilm(), *real_models.minilm_reference()


def test_real_weights(minilm):
    folder, model, tokenizer = minilm
    long = real_models.text().read_text()[:1000]
    check_states("minilm", "minilm", model, tokenizer, [*TEXTS, long, *PAIRS])
    texts = [*TEXTS, long]
    for text, vector in zip(texts, embedded("minilm", texts), strict=True):
        mean = reference(model, tokenizer.encode(text)).mean(0)
        assert np.abs(np.array(vector) - mean / np.linalg.norm(mean)).max() < 1e-6


def test_bits_do_not_depend_on_company(monkeypatch, minilm):
    texts = TEXTS * 12  # several ticks
    together = embedded("minilm", texts, "-t", "2")
    assert together == together[:len(TEXTS)] * 12
    assert [embedded("minilm", [t], "-t", "1")[0] for t in TEXTS] == together[:len(TEXTS)]
    for isa in ("scalar", "avx2"):
        monkeypatch.setenv("TUTTI_ISA", isa)
        assert embedded("minilm", TEXTS[:3], "-t", "1") == together[:3]


def write_pooling(folder, **modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))


@pytest.mark.parametrize("modes, first", [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, True),
    ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, False),
    ({"pooling_mode": "cls"}, True),
    ({"pooling_mode": "mean"}, False),
])
def test_pooling_is_the_folders(modes, first, tmp_path):
    model, tokenizer = make_model(tmp_path)
    write_pooling(tmp_path, **modes)
    for text, vector in zip(TEXTS, embedded(tmp_path, TEXTS), strict=True):
        states = reference(model, tokenizer.encode(text))
        pooled = states[0] if first else states.mean(0)
        assert np.abs(np.array(vector) - pooled / np.linalg.norm(pooled)).max() < 1e-5


def refused(folder, text, *words, options=()):
    done = subprocess.run([str(program.path()), "embed", "-m", str(folder), "-p", text, *options], capture_output=True,
                          text=True)
    assert done.returncode in (1, 2) and all(w in done.stderr for w in words), done.stderr


def test_what_is_no_such_network_is_refused(tmp_path):
    make_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in (("position_embedding_type", "relative_key"), ("is_decoder", True), ("hidden_act", "mish"),
                       ("num_attention_heads", 5)):
        (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
        refused(tmp_path, "a", "config.json", "hidden_size" if value == 5 else key)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for modes in ({"pooling_mode_max_tokens": True}, {"pooling_mode": "max"},
                  {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}):
        write_pooling(tmp_path, **modes)
        refused(tmp_path, "a", "1_Pooling", "pooling_mode")
    write_pooling(tmp_path, pooling_mode="mean")
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    refused(tmp_path, "a", "modules.json", "Dense")
    (tmp_path / "modules.json").write_text("[")
    refused(tmp_path, "a", "modules.json", "not JSON")


def test_length_is_the_folders(tmp_path):
    _, tokenizer = make_model(tmp_path)
    word = next(t for t in ("the", "a") if tokenizer.token_to_id(t))
    embedded(tmp_path, [" ".join([word] * 94)])
    refused(tmp_path, " ".join([word] * 95), "97 tokens do not fit the context of 96")
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10}))
    embedded(tmp_path, [" ".join([word] * 8)])
    refused(tmp_path, " ".join([word] * 9), "11 tokens do not fit the context of 10")


@pytest.mark.parametrize("command", [["run", "-p", "a", "--raw"], ["eval", "logits", "--ids", "5,6", "--out", "x"]])
def test_an_encoder_writes_nothing(command, tmp_path):
    make_model(tmp_path)
    done = subprocess.run([str(program.path()), *command, "-m", str(tmp_path)], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 1 and "encoder" in done.stderr, done.stderr
