"""Random tiny checkpoints of every family: folders as transformers writes them, and the same weights as GGUF."""

import contextlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB = 288
SPECIAL = ["<s>", "</s>", "<unk>"]


@dataclass
class Family:
    """One checkpoint to make. `config` overrides the shared sizes; `gguf_arch` None: no GGUF form of it."""

    name: str
    kind: str  # transformers' class prefix
    config: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard: str = "5GB"
    gguf_arch: str | None = None
    gguf_same_bits: bool = True  # False: GGUF stores rotary factors, rounded once more than the formula
    without: dict = field(default_factory=dict)  # config that removes what the case is about
    seed: int = 1

    def __str__(self):
        return self.name


def rope(theta=10000.0, **scaling):
    return {"rope_theta": theta, "rope_type": "default", **scaling}


LINEAR = rope(rope_type="linear", factor=4.0)
LLAMA3 = rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
YARN_OWN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16.0,
                beta_slow=2.0, attention_factor=1.3)
DYNAMIC = rope(rope_type="dynamic", factor=4.0)
EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32)
GEMMA = dict(hidden_size=96, num_hidden_layers=7, sliding_window=8, head_dim=32, query_pre_attn_scalar=32)

FAMILIES = [
    Family("llama", "Llama", gguf_arch="llama"),
    Family("llama-tied-biased", "Llama", dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    Family("llama-one-kv-head", "Llama", dict(num_key_value_heads=1, rms_norm_eps=1e-3)),
    Family("llama-wide-heads", "Llama", dict(head_dim=48)),
    Family("llama-bf16", "Llama", dtype=torch.bfloat16),
    Family("llama-f16-sharded", "Llama", dtype=torch.float16, shard="100KB"),
    Family("llama-linear", "Llama", dict(rope_parameters=LINEAR), gguf_arch="llama",
           without=dict(rope_parameters=rope())),
    Family("llama-llama3", "Llama", dict(rope_parameters=LLAMA3), gguf_arch="llama", gguf_same_bits=False,
           without=dict(rope_parameters=rope())),
    Family("llama-yarn", "Llama", dict(rope_parameters=YARN), gguf_arch="llama",
           without=dict(rope_parameters=rope())),
    Family("llama-yarn-own-bounds", "Llama", dict(rope_parameters=YARN_OWN),
           without=dict(rope_parameters=YARN)),
    Family("llama-dynamic-within-length", "Llama", dict(rope_parameters=DYNAMIC)),
    Family("mistral", "Mistral", dict(sliding_window=None), gguf_arch="llama"),
    Family("mistral-window", "Mistral", dict(sliding_window=8), without=dict(sliding_window=None)),
    Family("qwen2", "Qwen2", dict(rope_parameters=rope(1e6)), gguf_arch="qwen2"),
    Family("qwen2-window", "Qwen2",
           dict(use_sliding_window=True, sliding_window=8, max_window_layers=1, num_hidden_layers=3),
           without=dict(sliding_window=256)),
    Family("qwen2-yarn", "Qwen2", dict(rope_parameters=YARN), gguf_arch="qwen2",
           without=dict(rope_parameters=rope())),
    Family("qwen3", "Qwen3", dict(head_dim=32, tie_word_embeddings=True), gguf_arch="qwen3"),
    Family("gemma3", "Gemma3", GEMMA, gguf_arch="gemma3", without=dict(sliding_window=256)),
    Family("gemma3-own-scale", "Gemma3", GEMMA | dict(query_pre_attn_scalar=80)),
    Family("gemma3-linear", "Gemma3",
           GEMMA | dict(rope_parameters=dict(full_attention=LINEAR | dict(rope_theta=1e6),
                                             sliding_attention=rope())),
           gguf_arch="gemma3"),
    Family("mixtral", "Mixtral", dict(num_local_experts=5, num_experts_per_tok=2), gguf_arch="llama"),
    Family("qwen2-moe", "Qwen2Moe", EXPERTS | dict(shared_expert_intermediate_size=48), gguf_arch="qwen2moe"),
    Family("qwen2-moe-normalised-partly-dense", "Qwen2Moe",
           EXPERTS | dict(shared_expert_intermediate_size=48, norm_topk_prob=True, mlp_only_layers=[1],
                          num_hidden_layers=3),
           without=dict(norm_topk_prob=False)),
    Family("qwen3-moe", "Qwen3Moe", EXPERTS | dict(head_dim=32, norm_topk_prob=True), gguf_arch="qwen3moe"),
    Family("qwen3-moe-every-second", "Qwen3Moe",
           EXPERTS | dict(head_dim=32, decoder_sparse_step=2, num_hidden_layers=4)),
]


def make_config(family: Family, **overrides):
    base = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                bos_token_id=256, eos_token_id=257, rms_norm_eps=1e-5, tie_word_embeddings=False,
                rope_parameters=rope())
    if family.kind == "Gemma3":
        base["tie_word_embeddings"] = True
        base["rope_parameters"] = dict(full_attention=rope(1e6), sliding_attention=rope())
    suffix = "TextConfig" if family.kind == "Gemma3" else "Config"
    # Deep copies: transformers completes the rotary dictionaries in place.
    merged = json.loads(json.dumps({**base, **family.config, **overrides}))
    return getattr(transformers, family.kind + suffix)(**merged)


@torch.no_grad()
def make_model(family: Family):
    """Random weights of a scale at which every part matters: attention not uniform, experts clearly chosen."""
    model = getattr(transformers, family.kind + "ForCausalLM")(make_config(family)).eval()
    rng = torch.Generator().manual_seed(family.seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=rng)
        if "norm" in name:
            p.copy_(noise * 0.3 + (0.0 if family.kind == "Gemma3" else 1.0))
        elif name.endswith("bias"):
            p.copy_(noise * 0.5)
        elif "embed_tokens" in name:
            p.copy_(noise * (0.2 if family.kind == "Gemma3" else 1.0))
        else:
            p.copy_(noise * (1.5 / p.shape[-1] ** 0.5))
        p.data = p.data.to(family.dtype)  # not model.to(): it would round the rotary frequencies as well
    return model


@torch.no_grad()
def reference_logits(folder: Path, ids, **overrides) -> np.ndarray:
    """transformers' own logits of a folder, in fp32 from the stored weights."""
    with quiet():
        config = transformers.AutoConfig.from_pretrained(folder)
        for key, value in overrides.items():
            setattr(config, key, value)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    model.eval()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def tiny_tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = letters + SPECIAL + [f"<extra_{i}>" for i in range(VOCAB - len(letters) - len(SPECIAL))]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, names


@contextlib.contextmanager
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def write_folder(family: Family, model, folder: Path) -> Path:
    with quiet():
        model.save_pretrained(folder, max_shard_size=family.shard)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tiny_tokenizer()[0], bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(folder)
    return folder


def classic_config(folder: Path) -> None:
    """config.json as published folders have it: rope_theta and rope_scaling, torch_dtype, no layer_types."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    config.pop("layer_types", None)
    parameters = config.pop("rope_parameters")
    if config["model_type"] == "gemma3_text":
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern", 6)
        parameters = parameters["full_attention"]
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    if config["model_type"] == "qwen3_moe" and "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    config = {k: v for k, v in config.items() if v is not None or k == "rope_scaling"}
    file.write_text(json.dumps(config, indent=1))


# ---- GGUF ----

LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
EXPERT_NAMES = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}


def gguf_name(name: str, arch: str) -> str:
    """Of a tensor that is not an expert's."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, rest = name.split(".", 3)
    part, suffix = rest.rsplit(".", 1)
    if arch == "gemma3":
        norms = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                 "post_feedforward_layernorm": "post_ffw_norm"}
    else:
        norms = {"post_attention_layernorm": "ffn_norm"}
    return f"blk.{layer}.{(norms | LAYER_NAMES)[part]}.{suffix}"


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Q/K rows regrouped per head from (2, d/2) to (d/2, 2): half-split to interleaved rotary."""
    pairs = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, pairs, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(scaling, head_dim) -> np.ndarray:
    inverse = scaling["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    wave = 2 * np.pi / inverse
    original, f = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = (original / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / f + smooth)
    factors = np.where(wave < original / high, 1.0, np.where(wave > original / low, f, between))
    return factors.astype(np.float32)


def stored_tensors(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def write_gguf(family: Family, folder: Path, path: Path) -> Path:
    """The tensors of `folder` (fp32) as one GGUF file, by the published conversion rules."""
    arch = family.gguf_arch
    config = make_config(family)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(family.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCAB)
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    scaling = config.rope_parameters
    if arch == "gemma3":
        writer.add_sliding_window(config.sliding_window)
        scaling = scaling["full_attention"]
    else:
        writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(scaling["rope_theta"])
    if scaling["rope_type"] in ("linear", "yarn"):
        writer.add_string(f"{arch}.rope.scaling.type", scaling["rope_type"])
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if scaling["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(scaling, head_dim))

    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, value in stored_tensors(folder).items():
        if ".experts." in name:
            before, after = name.split(".experts.")
            index, part, _ = after.split(".")
            stacked = f"blk.{before.split('.')[2]}.ffn_{EXPERT_NAMES[part]}_exps.weight"
            experts.setdefault(stacked, {})[int(index)] = value
            continue
        target = gguf_name(name, arch)
        if arch == "llama" and ".attn_q." in target:
            value = interleaved(value, heads)
        if arch == "llama" and ".attn_k." in target:
            value = interleaved(value, kv_heads)
        if arch == "gemma3" and target.endswith("norm.weight"):
            value = value + np.float32(1)
        if target.endswith("ffn_gate_inp_shexp.weight"):
            value = value.reshape(-1)
        writer.add_tensor(target, np.ascontiguousarray(value))
    for name, parts in experts.items():
        writer.add_tensor(name, np.stack([parts[e] for e in range(len(parts))]))
    if experts:
        count = len(next(iter(experts.values())))
        writer.add_expert_count(count)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if arch in ("qwen2moe", "qwen3moe"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if arch == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)

    _, tokens = tiny_tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<") and len(t) > 1 else 1 for t in tokens])
    writer.add_array("tokenizer.ggml.merges", ["Ġ a"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
