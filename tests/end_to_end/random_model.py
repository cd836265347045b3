"""A small causal model with random weights: what it writes depends on every bit of what it has seen, so that a mistake of
caches, batches or forks shows in its text. It writes printable bytes for the most part, and ends now and then."""

import gguf
import numpy as np
from table_model import ALPHABET, END, TURN

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDE = 64, 2, 4, 2, 16, 96
PIECES = ["the", " a", "in", "er", ", ", "on", '":', '{"', "12", "ing"]
TEMPLATE = ("{% for m in messages %}" + TURN + "{{ m.role }}\n{{ m.content }}" + END + "\n{% endfor %}"
            "{% if add_generation_prompt %}" + TURN + "assistant\n{% endif %}")


def write(path, context=4096, seed=1):
    tokens = [ALPHABET[b] for b in range(256)] + ["".join(ALPHABET[b] for b in p.encode()) for p in PIECES] + [END, TURN]
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    for add, value in [(writer.add_context_length, context), (writer.add_embedding_length, HIDDEN),
                       (writer.add_block_count, LAYERS), (writer.add_feed_forward_length, WIDE),
                       (writer.add_head_count, HEADS), (writer.add_head_count_kv, KV_HEADS),
                       (writer.add_rope_dimension_count, HEAD_DIM), (writer.add_rope_freq_base, 10000.0),
                       (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, len(tokens)),
                       (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "gpt-2"),
                       (writer.add_token_list, tokens), (writer.add_token_types, [int(k) for k in kinds]),
                       (writer.add_token_merges, [f"{ALPHABET[32]} a"]), (writer.add_eos_token_id, tokens.index(END)),
                       (writer.add_chat_template, TEMPLATE)]:
        add(value)
    random = np.random.default_rng(seed)

    def matrix(rows, columns, scale=1.5):
        return (random.standard_normal((rows, columns)) * scale / columns ** 0.5).astype(np.float32)

    head = matrix(len(tokens), HIDDEN, 3.0)
    head[[b for b in range(256) if b < 32 or b > 126]] = 0  # seldom
    tensors = [("token_embd.weight", matrix(len(tokens), HIDDEN, HIDDEN ** 0.5)), ("output.weight", head),
               ("output_norm.weight", np.ones(HIDDEN, np.float32))]
    for layer in range(LAYERS):
        tensors += [(f"blk.{layer}.{name}.weight", value) for name, value in [
            ("attn_norm", np.ones(HIDDEN, np.float32)), ("ffn_norm", np.ones(HIDDEN, np.float32)),
            ("attn_q", matrix(HEADS * HEAD_DIM, HIDDEN)), ("attn_k", matrix(KV_HEADS * HEAD_DIM, HIDDEN)),
            ("attn_v", matrix(KV_HEADS * HEAD_DIM, HIDDEN)), ("attn_output", matrix(HIDDEN, HEADS * HEAD_DIM)),
            ("ffn_gate", matrix(WIDE, HIDDEN)), ("ffn_up", matrix(WIDE, HIDDEN)), ("ffn_down", matrix(HIDDEN, WIDE))]]
    for name, value in tensors:
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_prompt_tokens(folder, hidden=HIDDEN):
    """A prompt token (method ppd) that was never trained, and trees for it."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(1).normal(size=(1, hidden)).astype(np.float32)
    save_file({"prompt_embeddings": values}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 1}')
    (folder / "tree.json").write_text('{"method": "ppd", "acceptance": [[0.5, 0.2]], "seconds": [], '
                                      '"trees": [[[[[], 1]], [[[], 1], [[0], 1], [[1], 0]]]]}')
    return folder
