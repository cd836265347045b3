"""XLNet's two streams against transformers' XLNetLMHeadModel, with the permutation masks of sheet 45."""

import json

import numpy as np
import program
import pytest
import torch
import transformers
from closeness import check_close

VOCAB, MASK = 53, 6
EXACT = ["--arithmetic", "exact-f32", "--kv", "f32"]
CASES = {
    "base-like": {},
    "clamped": dict(clamp_len=5),
    "own-head": dict(tie_word_embeddings=False),
    "one-wide-head": dict(n_head=1, n_layer=1),
    "relu": dict(ff_activation="relu"),
}


def make_model(folder, seed, **changes):
    """The published base configuration at a small size; every parameter is random, also those that start as zeros."""
    torch.manual_seed(seed)
    sizes = dict(vocab_size=VOCAB, d_model=64, n_layer=3, n_head=4, d_inner=160, ff_activation="gelu", untie_r=True,
                 attn_type="bi", bi_data=False, clamp_len=-1, same_length=False, mem_len=None, reuse_len=None,
                 layer_norm_eps=1e-12, dropout=0.1, pad_token_id=5, bos_token_id=1, eos_token_id=2)
    model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**(sizes | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if parameter.dim() < 2 or "bias" in name else 1.3 * parameter.shape[-1] ** -0.5
            if "rel_attn" in name and parameter.dim() == 3:
                spread = 1.3 * parameter.shape[0] ** -0.5
            parameter.normal_(1.0 if name.endswith("layer_norm.weight") else 0.0, spread)
    model.tie_weights()
    model.save_pretrained(folder)
    # The encodings of distances stay what they are in fp32; everything behind them is computed in double.
    encoding = model.transformer.relative_positional_encoding
    model.transformer.relative_positional_encoding = lambda *a, **k: encoding(*a, **k).double()
    return model.double()


def reference(model, tokens, order):
    """Logits at the positions of `order`, whose tokens were decided in this order; all others are given."""
    n, given = len(tokens), [p for p in range(len(tokens)) if p not in order]
    rank = {p: r for r, p in enumerate(given + list(order))}
    forbidden = torch.zeros(1, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            both_given = rank[i] < len(given) and rank[j] < len(given)
            forbidden[0, i, j] = 0 if both_given or rank[j] < rank[i] else 1
    target = torch.zeros(1, len(order), n, dtype=torch.float64)
    for k, p in enumerate(order):
        target[0, k, p] = 1
    with torch.no_grad():
        out = model(torch.tensor([tokens]), perm_mask=forbidden, target_mapping=target)
    return out.logits[0].numpy()


def scored(folder, tokens, order, tmp_path, *options):
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"tokens": tokens, "order": order}))
    return json.loads(program.run("score", "-m", folder, "--task", task, "--json", "--logits", *options))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, tmp_path):
    model = make_model(tmp_path / "model", 3, **CASES[name])
    random = np.random.default_rng(5)
    for n, given in ((9, 3), (33, 20), (40, 1)):
        tokens = [int(t) for t in random.choice([t for t in range(VOCAB) if t != MASK], n)]
        order = [int(p) for p in random.permutation(n)[: n - given]]
        result = scored(tmp_path / "model", tokens, order, tmp_path, *EXACT)
        ours = np.array([t["logits"] for t in result["scored"]])
        expected = reference(model, tokens, order)
        check_close(f"{name}, {n} tokens, {given} given", ours, expected, 1e-5)
        # What it adds up: the chain rule, the mask token's share going to the others.
        logits = torch.tensor(expected)
        logits[:, MASK] = -torch.inf
        log_p = logits.log_softmax(1)[torch.arange(len(order)), torch.tensor([tokens[p] for p in order])]
        assert abs(result["log_probability"] - float(log_p.sum())) < 1e-4 * len(order)
        assert [t["position"] for t in result["scored"]] == order


def test_the_order_matters_and_is_followed(tmp_path):
    """The comparison above can fail: another order has other logits, by far."""
    model = make_model(tmp_path / "model", 4)
    tokens, order = [7, 8, 9, 10, 11, 12], [1, 4, 2]
    ours = np.array([t["logits"] for t in scored(tmp_path / "model", tokens, order, tmp_path, *EXACT)["scored"]])
    other = reference(model, tokens, [4, 1, 2])
    for k, other_k in ((0, 1), (1, 0), (2, 2)):  # the last one sees the same tokens, which saw others
        assert np.abs(ours[k] - other[other_k]).max() > 1e-2 * np.abs(other).max()


def test_what_is_no_such_network_is_refused(tmp_path):
    make_model(tmp_path / "model", 4)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"tokens": [7, 8, 9], "order": [1]}))
    for key, value, part in (("attn_type", "uni", "attn_type"), ("bi_data", True, "bi_data"), ("d_head", 12, "head dimension")):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(AssertionError, match=part):
            program.run("score", "-m", tmp_path / "model", "--task", task, "--json")


def infilled(folder, tokens, tmp_path, *options, env=None):
    task = tmp_path / "blanks.json"
    task.write_text(json.dumps({"tokens": tokens}))
    return json.loads(program.run("infill", "-m", folder, "--task", task, "--json", *options))


def test_infill_writes_the_same_by_every_way(tmp_path, monkeypatch):
    """Drafts, caches, threads and instruction sets change the number of forwards, not the text."""
    make_model(tmp_path / "model", 9)
    random = np.random.default_rng(2)
    tokens = [None if random.random() < 0.7 else int(random.integers(7, VOCAB)) for _ in range(30)]
    blanks = tokens.count(None)
    plain = infilled(tmp_path / "model", tokens, tmp_path, "--method", "any-order", "-s", "3", "-n", "3")["texts"]
    assert all(t["forwards"] == blanks for t in plain)
    for options in ([], ["-k", "9", "--bonus"], ["--draft", "ngram"], ["--uncached"], ["-t", "2"]):
        fast = infilled(tmp_path / "model", tokens, tmp_path, "-s", "3", "-n", "3", *options)["texts"]
        assert [t["tokens"] for t in fast] == [t["tokens"] for t in plain], options
        assert all(t["forwards"] <= blanks for t in fast)
    for isa in ("scalar", "avx2"):
        monkeypatch.setenv("TUTTI_ISA", isa)
        again = infilled(tmp_path / "model", tokens, tmp_path, "-s", "3", "-n", "3", "--accept", "reject")["texts"]
        if isa == "scalar":
            scalar = again
        assert [t["tokens"] for t in again] == [t["tokens"] for t in scalar]
    for text in plain:
        assert MASK not in text["tokens"]
        assert all(b in (None, t) for b, t in zip(tokens, text["tokens"]))
    score = scored(tmp_path / "model", plain[0]["tokens"], [i for i, t in enumerate(tokens) if t is None], tmp_path)
    assert abs(score["log_probability"] - plain[0]["log_probability"]) < 1e-4 * blanks


def test_what_cannot_be_filled_is_said(tmp_path):
    make_model(tmp_path / "model", 9)
    for tokens, options, part in (
        ([7, 8], [], "no blank"),
        ([7, None, MASK], [], "mask token"),
        ([7, None, 99], [], "not in the vocabulary"),
        ([7, None] * 600, [], "does not fit the context of 1024"),
        ([7, None], ["--method", "any-order", "--bonus"], "options of assd"),
        ([7, "x"], [], "null is a blank"),
    ):
        with pytest.raises(AssertionError, match=part):
            infilled(tmp_path / "model", tokens, tmp_path, *options)


def test_texts_with_marks(tmp_path):
    """Text in and out, through a unigram vocabulary of the model's size."""
    import sentencepiece
    from mixed_text import corpus

    make_model(tmp_path / "model", 9, vocab_size=200)
    with open(tmp_path / "model" / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line[:400] for line in corpus(30000)), model_writer=file, vocab_size=200,
            model_type="unigram", control_symbols=["<cls>", "<sep>", "<pad>", "<mask>"], minloglevel=2,
            character_coverage=0.98, hard_vocab_limit=False)
    text = "the value of [[mask:3]] and the [[mask]]"
    done = json.loads(program.run("infill", "-m", tmp_path / "model", "-p", text, "--json", "-s", "1"))["texts"][0]
    assert len(done["filled"]) == 4 and done["text"].startswith("the value of")
    score = json.loads(program.run("score", "-m", tmp_path / "model", "-p", "the [[=value]] of", "--json"))
    whole = json.loads(program.run("score", "-m", tmp_path / "model", "-p", "the value of", "--json"))
    assert 0 < len(score["scored"]) < len(whole["scored"])
    for bad, part in (("a [[mask:0]]", "is no mark"), ("a [[mask", "not closed"), ("a [[=]]", "has no words")):
        with pytest.raises(AssertionError, match=part):
            program.run("infill", "-m", tmp_path / "model", "-p", bad)
