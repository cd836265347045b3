"""Masked mixture-of-experts models against an independent PyTorch network in fp64, written here from the published
descriptions and sharing nothing with the program: random tiny LLaDA-MoE and LLaDA2 folders, and the GGUF files that
the program makes of them. Masked models without experts (llada, dream, sdar) go the same way by test_training's
network."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import program
import test_training
import tiny_checkpoints
from closeness import check_close, check_same_bits

LIMIT = 1e-5
VOCAB = tiny_checkpoints.VOCAB
MASK = VOCAB - 2
IDS = [int(i) for i in np.random.default_rng(9).integers(0, VOCAB, 45)]
IDS[3::4] = [MASK] * len(IDS[3::4])

torch.set_num_threads(1)

MOE = {"architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "hidden_size": 64, "num_hidden_layers": 3,
       "num_attention_heads": 4, "num_key_value_heads": 2, "dense_intermediate_size": 96,
       "expert_intermediate_size": 32, "shared_expert_intermediate_size": None, "num_experts": 8,
       "num_experts_per_tok": 3, "moe_layer_freq": [1, 1, 1], "moe_router_enable_expert_bias": False,
       "moe_router_score_function": "softmax", "norm_topk_prob": None, "qk_layernorm": True, "attention_bias": False,
       "clip_qkv": None, "hidden_act": "silu", "vocab_size": VOCAB, "max_position_embeddings": 64,
       "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "partial_rotary_factor": 1, "rope_scaling": None,
       "tie_word_embeddings": False, "mask_token_id": MASK}
LLADA2 = {"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "hidden_size": 64, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96,
          "moe_intermediate_size": 32, "num_experts": 12, "num_shared_experts": 1, "num_experts_per_tok": 3,
          "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
          "score_function": "sigmoid", "moe_router_enable_expert_bias": True, "first_k_dense_replace": 1,
          "partial_rotary_factor": 0.5, "rope_theta": 600000.0, "rope_scaling": None, "rms_norm_eps": 1e-6,
          "max_position_embeddings": 64, "use_qkv_bias": False, "use_bias": False, "norm_head": False,
          "hidden_act": "silu", "tie_word_embeddings": False, "vocab_size": VOCAB, "mask_token_id": MASK}

# name: (config, whether a GGUF file can say it, what to leave out of the network to see that it matters)
CASES = {
    "llada-moe": (MOE, True, ["q/k norm", "seen from both sides"]),
    "llada-moe-shared-dense-biased": (
        MOE | {"shared_expert_intermediate_size": 48, "moe_layer_freq": [0, 1, 1], "attention_bias": True,
               "moe_router_enable_expert_bias": True, "qk_layernorm": False},
        False, ["shared expert", "expert bias"]),
    "llada2": (LLADA2, True, ["expert bias", "groups", "scaling", "normalised", "shared expert", "partial rotary",
                              "blocks"]),
    "llada2-two-shared-biased": (LLADA2 | {"num_shared_experts": 2, "use_qkv_bias": True, "use_bias": True,
                                           "block_size": 8, "n_group": 1, "topk_group": 1},
                                 True, ["expert bias", "shared expert", "blocks"]),
}


def each(names=CASES):
    return pytest.mark.parametrize("name", names)


# ---- the weights ----


def is_llada2(config):
    return config["model_type"] == "llada2_moe"


def random_weights(config, seed=4):
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def matrix(name, out, width, spread=1.5):
        weights[name] = torch.randn(out, width, generator=generator) * spread / math.sqrt(width)

    def vector(name, n, mean, spread=0.3):
        weights[name] = mean + spread * torch.randn(n, generator=generator)

    def mlp(at, width):
        matrix(at + "gate_proj.weight", width, hidden)
        matrix(at + "up_proj.weight", width, hidden)
        matrix(at + "down_proj.weight", hidden, width)

    hidden, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", hidden // heads)
    two = is_llada2(config)
    matrix("model.word_embeddings.weight" if two else "model.embed_tokens.weight", VOCAB, hidden, 8.0)
    vector("model.norm.weight", hidden, 1)
    matrix("lm_head.weight", VOCAB, hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        vector(at + "input_layernorm.weight", hidden, 1)
        vector(at + "post_attention_layernorm.weight", hidden, 1)
        if two:
            matrix(at + "attention.query_key_value.weight", (heads + 2 * kv) * dim, hidden)
            matrix(at + "attention.dense.weight", hidden, heads * dim)
            vector(at + "attention.query_layernorm.weight", dim, 1)
            vector(at + "attention.key_layernorm.weight", dim, 1)
            if config["use_qkv_bias"]:
                vector(at + "attention.query_key_value.bias", (heads + 2 * kv) * dim, 0)
            if config["use_bias"]:
                vector(at + "attention.dense.bias", hidden, 0)
        else:
            for part, out, width in (("q", heads * dim, hidden), ("k", kv * dim, hidden), ("v", kv * dim, hidden),
                                     ("o", hidden, heads * dim)):
                matrix(f"{at}self_attn.{part}_proj.weight", out, width)
                if config["attention_bias"]:
                    vector(f"{at}self_attn.{part}_proj.bias", out, 0)
            if config["qk_layernorm"]:
                vector(at + "self_attn.q_norm.weight", dim, 1)
                vector(at + "self_attn.k_norm.weight", dim, 1)
        if not sparse(config, i):
            mlp(at + "mlp.", config["intermediate_size" if two else "dense_intermediate_size"])
            continue
        matrix(at + "mlp.gate.weight", config["num_experts"], hidden)
        width = config["moe_intermediate_size" if two else "expert_intermediate_size"]
        for e in range(config["num_experts"]):
            mlp(f"{at}mlp.experts.{e}.", width)
        if two:
            vector(at + "mlp.gate.expert_bias", config["num_experts"], 0)
            mlp(at + "mlp.shared_experts.", width * config["num_shared_experts"])
        else:
            if config["moe_router_enable_expert_bias"]:
                vector(at + "mlp.expert_bias", config["num_experts"], 0, 0.1)
            if config["shared_expert_intermediate_size"]:
                mlp(at + "shared_expert.", config["shared_expert_intermediate_size"])
    return weights


def sparse(config, layer):
    return layer >= config["first_k_dense_replace"] if is_llada2(config) else config["moe_layer_freq"][layer] == 1


# ---- the network, in fp64; `without` names a part that is left out ----


def choose(config, logits, bias, without):
    """The ids and weights of the experts of one row."""
    k = config["num_experts_per_tok"]
    if not is_llada2(config):
        scores = logits.softmax(-1)
        if bias is not None:
            scores = scores + bias  # weighs, too
        ids = scores.argsort(descending=True)[:k]
        return ids, scores[ids]
    scores = logits.sigmoid()
    by = scores + bias if bias is not None else scores
    groups = by.reshape(config["n_group"], -1)
    if config["n_group"] > 1 and "groups" not in without:
        ranked = sorted(range(len(groups)), key=lambda g: -sum(sorted(groups[g].tolist())[-2:]))
        for g in ranked[config["topk_group"]:]:
            groups[g] = -math.inf
    ids = groups.flatten().argsort(descending=True)[:k]
    weights = scores[ids]
    if "normalised" not in without:
        weights = weights / weights.sum()
    return ids, weights * (1 if "scaling" in without else config["routed_scaling_factor"])


def feed_forward(x, weights, at):
    gate, up, down = (weights[f"{at}{part}_proj.weight"] for part in ("gate", "up", "down"))
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def experts(config, weights, at, x, without):
    bias = weights.get(at + ("mlp.gate.expert_bias" if is_llada2(config) else "mlp.expert_bias"))
    if "expert bias" in without:
        bias = None
    rows = []
    for row in x:
        ids, scores = choose(config, weights[at + "mlp.gate.weight"] @ row, bias, without)
        rows.append(sum(s * feed_forward(row, weights, f"{at}mlp.experts.{int(e)}.") for e, s in zip(ids, scores)))
    y = torch.stack(rows)
    shared = at + ("mlp.shared_experts." if is_llada2(config) else "shared_expert.")
    if shared + "up_proj.weight" in weights and "shared expert" not in without:
        y = y + feed_forward(x, weights, shared)
    return y


def sees(config, n, without):
    if "seen from both sides" in without:
        return torch.ones(n, n).tril().bool()
    if not is_llada2(config) or "blocks" in without:
        return torch.ones(n, n, dtype=torch.bool)
    block = config.get("block_size", 32)
    at = torch.arange(n) // block
    return at[None, :] <= at[:, None]


def rotate(x, theta, dims):
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] * theta ** (-torch.arange(0, dims, 2).double() / dims)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b, rest = x[..., :dims // 2], x[..., dims // 2:dims], x[..., dims:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def logits_of(config, weights, ids, without=()):
    two = is_llada2(config)
    weights = {k: v.double() for k, v in weights.items()}
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", config["hidden_size"] // heads)
    rotated = dim if "partial rotary" in without else int(dim * config["partial_rotary_factor"])

    def norm(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * weights[name]

    def linear(x, name):
        y = x @ weights[name + ".weight"].T
        return y + weights[name + ".bias"] if name + ".bias" in weights else y

    x = weights["model.word_embeddings.weight" if two else "model.embed_tokens.weight"][torch.tensor(ids)]
    mask = sees(config, len(ids), without)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = norm(x, at + "input_layernorm.weight")
        if two:
            q, k, v = linear(y, at + "attention.query_key_value").view(len(ids), -1, dim).split([heads, kv, kv], 1)
            norms = at + "attention.query_layernorm.weight", at + "attention.key_layernorm.weight"
        else:
            q, k, v = (linear(y, f"{at}self_attn.{part}_proj").view(len(ids), -1, dim) for part in "qkv")
            norms = at + "self_attn.q_norm.weight", at + "self_attn.k_norm.weight"
        if norms[0] in weights and "q/k norm" not in without:
            q, k = norm(q, norms[0]), norm(k, norms[1])
        q, k = rotate(q, config["rope_theta"], rotated), rotate(k, config["rope_theta"], rotated)
        out = []
        for h in range(heads):
            shared = h // (heads // kv)
            score = (q[:, h] @ k[:, shared].T / math.sqrt(dim)).masked_fill(~mask, -math.inf)
            out.append(score.softmax(-1) @ v[:, shared])
        x = x + linear(torch.cat(out, -1), at + ("attention.dense" if two else "self_attn.o_proj"))
        y = norm(x, at + "post_attention_layernorm.weight")
        x = x + (experts(config, weights, at, y, without) if sparse(config, i)
                 else feed_forward(y, weights, at + "mlp."))
    return (norm(x, "model.norm.weight") @ weights["lm_head.weight"].T).numpy()


# ---- the tests ----


class Shelf:
    """Folders, files made of them and logits, each made when first asked for."""

    def __init__(self, path):
        self.path = path
        self.references = {}

    def folder(self, name):
        folder = self.path / name
        if not folder.exists():
            folder.mkdir()
            config = CASES[name][0]
            save_file(random_weights(config), folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config))
            tokenizer, _ = tiny_checkpoints.tiny_tokenizer()
            tokenizer.save(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").write_text("{}")
        return folder

    def gguf(self, name):
        file = self.path / f"{name}.gguf"
        if not file.exists():
            program.run("quantize", "-m", self.folder(name), file, "F32", "--json")
        return file

    def reference(self, name):
        if name not in self.references:
            config = CASES[name][0]
            self.references[name] = logits_of(config, random_weights(config), IDS)
        return self.references[name]

    def ours(self, model, *, options=program.EXACT):
        return np.array(program.logits(model, IDS, VOCAB, self.path / "logits.f32", options=options))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("masked"))


@each()
def test_what_the_case_is_about_matters(name, shelf):
    """Else a program that ignores it would pass."""
    config, _, parts = CASES[name]
    reference = shelf.reference(name)
    for part in parts:
        without = logits_of(config, random_weights(config), IDS, [part])
        assert np.abs(without - reference).max() > 0.05 * np.abs(reference).max(), part


@each()
def test_folder(name, shelf):
    check_close(name, shelf.ours(shelf.folder(name)), shelf.reference(name), LIMIT)


@each([name for name, case in CASES.items() if case[1]])
def test_gguf_is_the_same_model(name, shelf):
    check_same_bits(name, shelf.ours(shelf.gguf(name)), shelf.ours(shelf.folder(name)))


def test_what_gguf_cannot_say_is_refused(shelf, tmp_path):
    with pytest.raises(AssertionError, match="cannot say the experts"):
        program.run("quantize", "-m", shelf.folder("llada-moe-shared-dense-biased"), tmp_path / "no.gguf", "F32")


@each(["llada-moe", "llada2"])
def test_it_decodes(name, shelf):
    """The methods over masked models run it: whole answers, the same from folder and file."""
    texts = [program.run("run", "-m", model, "-p", "ab", "--raw", "-n", "8", *program.EXACT, "--json")
             for model in (shelf.folder(name), shelf.gguf(name))]
    answers = [json.loads(text) for text in texts]
    assert answers[0]["text"] == answers[1]["text"] != ""


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_masked_models_without_experts(family, tmp_path):
    weights = test_training.random_weights(family, 6)
    folder = test_training.write_folder(tmp_path / "model", family, weights)
    ids = [int(i) for i in np.random.default_rng(2).integers(0, test_training.VOCAB, 30)]
    n, kind = len(ids), test_training.FAMILIES[family][3]
    blocks = torch.arange(n) // test_training.BLOCK
    mask = torch.ones(n, n, dtype=torch.bool) if kind == "full" else blocks[None, :] <= blocks[:, None]
    reference = test_training.logits_of({k: v.double() for k, v in weights.items()}, family, torch.tensor(ids),
                                        torch.arange(n), mask).numpy()
    ours = program.logits(folder, ids, test_training.VOCAB, tmp_path / "logits.f32")
    check_close(family, ours, reference, LIMIT)
