"""Writes src/models/rope_cases.json, the inverse frequencies of transformers, for rope_test.cpp.

Run from the repository's root: .venv/bin/python tests/conformance/make_rope_cases.py
"""

import json
from pathlib import Path

import numpy as np
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HEADS = 4


def case(name, dims, base, context, seq_len=None, **scaling):
    """One set of parameters; `seq_len` is the length that dynamic scaling is fixed for."""
    parameters = {"rope_theta": base, "rope_type": "default", **scaling}
    config = LlamaConfig(
        hidden_size=HEADS * dims,
        num_attention_heads=HEADS,
        head_dim=dims,
        max_position_embeddings=context,
        rope_parameters=dict(parameters),
    )
    kind = parameters["rope_type"]
    if kind == "default":
        frequencies, magnitude = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](config, seq_len=seq_len)
    values = np.asarray(frequencies, dtype=np.float32)
    # Bits, so that no printing or parsing rounds them.
    return {
        "name": name,
        "dims": dims,
        "base": base,
        "context": context,
        "length": seq_len or context,
        "scaling": scaling,
        "inverse_frequency_bits": [int(b) for b in values.view(np.uint32)],
        "magnitude": float(magnitude),
    }


def main():
    llama3 = {
        "rope_type": "llama3",
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    yarn = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}
    cases = [
        case("SmolLM2", 64, 100000.0, 8192),
        case("Gemma-3 global", 256, 1000000.0, 32768),
        case("Gemma-3 local", 256, 10000.0, 32768),
        case("Llama-2", 128, 10000.0, 4096),
        case("small head", 16, 10000.0, 128),
        case("linear 8", 128, 1000000.0, 131072, rope_type="linear", factor=8.0),
        case("linear 2.5", 64, 10000.0, 5120, rope_type="linear", factor=2.5),
        case("Llama-3.1", 128, 500000.0, 131072, factor=8.0, **llama3),
        case("Llama-3.2", 64, 500000.0, 131072, factor=32.0, **llama3),
        case("YaRN, Qwen2.5", 128, 1000000.0, 131072, rope_type="yarn", factor=4.0,
             original_max_position_embeddings=32768),
        case("YaRN, two mscales", 64, 10000.0, 163840, beta_fast=32, beta_slow=1, mscale=0.707,
             mscale_all_dim=1.0, **yarn),
        case("YaRN, equal mscales", 64, 10000.0, 163840, mscale=0.707, mscale_all_dim=0.707,
             **yarn),
        case("YaRN, attention factor", 128, 10000.0, 65536, attention_factor=1.25, beta_fast=16,
             beta_slow=2, **yarn),
        case("YaRN, not truncated", 128, 150000.0, 131072, truncate=False, **yarn),
        case("dynamic, within", 128, 10000.0, 4096, rope_type="dynamic", factor=4.0),
        case("dynamic, twice", 128, 10000.0, 4096, seq_len=8192, rope_type="dynamic", factor=2.0),
        case("dynamic, four times", 64, 500000.0, 8192, seq_len=32768, rope_type="dynamic",
             factor=4.0),
    ]
    document = {"transformers": transformers.__version__, "cases": cases}
    path = Path(__file__).resolve().parents[2] / "src" / "models" / "rope_cases.json"
    text = json.dumps(document, separators=(",", ":")).replace('{"name"', '\n{"name"')
    path.write_text(text + "\n")


if __name__ == "__main__":
    main()
