"""A Hugging Face folder with SmolLM2-135M's sizes, random weights and the layout of a masked model, for timing alone:
`.venv/bin/python bench/random_model.py FOLDER [sdar|llada] [VOCABULARY]`. The tokenizer is a character tokenizer trained
here, whatever the vocabulary's size."""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE, BLOCK = 30, 576, 9, 3, 64, 1536, 4
SMOLLM2_VOCABULARY = 49152
ROOT = Path(__file__).resolve().parents[1]


def main():
    folder, family = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "sdar"
    vocabulary = int(sys.argv[3]) if len(sys.argv) > 3 else SMOLLM2_VOCABULARY
    folder.mkdir(parents=True)
    source = ROOT / "weights" / ("sudoku-blocks" if family == "sdar" else "sudoku")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    config = json.loads((source / "config.json").read_text())
    sizes = {"llada": ("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "max_sequence_length"),
             "sdar": ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                      "intermediate_size", "max_position_embeddings")}[family]
    config |= dict(zip(sizes, (HIDDEN, LAYERS, HEADS, KV_HEADS, WIDE, 2048)))
    config |= {"vocab_size": vocabulary}
    config |= {"embedding_size": vocabulary} if family == "llada" else {"head_dim": HEAD_DIM, "block_size": BLOCK}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    generator = torch.Generator().manual_seed(1)

    def matrix(out, width):
        return torch.randn(out, width, generator=generator, dtype=torch.float32) / width ** 0.5

    llada = family == "llada"
    at = "model.transformer.blocks.{}." if llada else "model.layers.{}."
    names = (("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out") if llada
             else ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                   "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"))
    kv, query = KV_HEADS * HEAD_DIM, HEADS * HEAD_DIM
    shapes = (None, (query, HIDDEN), (kv, HIDDEN), (kv, HIDDEN), (HIDDEN, query), None, (WIDE, HIDDEN), (WIDE, HIDDEN),
              (HIDDEN, WIDE))
    weights = {"model.transformer.wte.weight" if llada else "model.embed_tokens.weight": matrix(vocabulary, HIDDEN),
               "model.transformer.ln_f.weight" if llada else "model.norm.weight": torch.ones(HIDDEN)}
    for layer in range(LAYERS):
        for name, shape in zip(names, shapes):
            weights[at.format(layer) + name + ".weight"] = matrix(*shape) if shape else torch.ones(HIDDEN)
        if not llada:
            for norm in ("q_norm", "k_norm"):
                weights[at.format(layer) + f"self_attn.{norm}.weight"] = torch.ones(HEAD_DIM)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
