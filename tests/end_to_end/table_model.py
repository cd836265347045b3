"""A model that writes chosen texts: a real checkpoint whose logits are a table over the visible tokens.

The vocabulary has a token for every byte, and for every piece of every text a token of its own (several tokens may spell
the same bytes). A special token in the prompt names the text. The network is a transformer of one layer:

- Every piece has a random code of +-1; the row of the head that stands for a piece is the code of the piece before it, so
  that one piece leads to the next (112 against at most some 60 by chance).
- The only head of attention looks for the special token, wherever it stands, and brings its code to the last place; the row
  of a text's first piece is that code (67). Behind a last piece the end token is likeliest (80).
- A grammar may forbid all this: then the likeliest of what it allows is a byte by a fixed order, quotation marks and closing
  brackets first (50 and less), and the end where that is allowed (60).

So greedy decoding writes exactly a text; what shares the forward, drafts, or samples at moderate temperatures do not change it.
"""

import gguf
import numpy as np

HIDDEN, CODE = 256, 112
CONST, PIECE, SCRIPT = 0, 1, 2  # places in the hidden state: always 1; of pieces; of special tokens
OWN, TOLD = slice(16, 16 + CODE), slice(128, 128 + CODE)  # a piece's own code; the special token's
END, TURN = "<|im_end|>", "<|im_start|>"
PREFERRED = b"\"}]0t1,: {rue[n"


def printable():
    """GPT-2's alphabet: a printable character for every byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(rest)}


ALPHABET = printable()


class Control(str):
    """A piece that is a control token, such as [TOOL_CALLS] of Mistral's vocabularies."""


def cuts(text):
    """The text as single bytes, and cut in two at every byte."""
    data = text.encode()
    return [[data[i:i + 1] for i in range(len(data))]] + [[data[:i], data[i:]] for i in range(1, len(data))]


class TableModel:
    """Collects texts; `say(pieces)` is the special token that makes the model write them."""

    def __init__(self):
        self.tokens, self.types = [ALPHABET[b] for b in range(256)], [gguf.TokenType.NORMAL] * 256
        self.add(ALPHABET[32] + "t")  # a file of this kind has merges: one
        self.end = self.add(END, gguf.TokenType.CONTROL)
        self.add(TURN, gguf.TokenType.CONTROL)
        self.scripts = []  # (special token, pieces)

    def add(self, text, kind=gguf.TokenType.NORMAL):
        self.tokens.append(text)
        self.types.append(kind)
        return len(self.tokens) - 1

    def say(self, pieces):
        name = f"<|say:{len(self.scripts)}|>"
        special = self.add(name, gguf.TokenType.CONTROL)
        ids = [self.add(p, gguf.TokenType.CONTROL) if isinstance(p, Control) else
               self.add("".join(ALPHABET[b] for b in (p.encode() if isinstance(p, str) else p))) for p in pieces]
        self.scripts.append((special, ids))
        return name

    def tables(self):
        random = np.random.default_rng(1)
        n = len(self.tokens)
        embedding, head = np.zeros((n, HIDDEN), np.float32), np.zeros((n, HIDDEN), np.float32)
        embedding[:, CONST] = 1
        for byte in range(256):
            place = PREFERRED.find(byte)
            head[byte, CONST] = 50 - place if place >= 0 else 33 - byte / 256
        head[self.end, CONST], head[self.end, PIECE] = 60, 20
        for special, ids in self.scripts:
            told = random.choice([-1.0, 1.0], CODE)
            embedding[special, SCRIPT], embedding[special, TOLD] = 1, told
            head[ids[0], TOLD] = 0.6 * told
            for i, piece in enumerate(ids):
                own = random.choice([-1.0, 1.0], CODE)
                embedding[piece, PIECE], embedding[piece, OWN] = 1, own
                if i + 1 < len(ids):
                    head[ids[i + 1], OWN] = own
        return embedding, head

    def write(self, path, template, context=4096):
        writer = gguf.GGUFWriter(path, "qwen2")
        writer.add_name("table")
        for add, value in [(writer.add_context_length, context), (writer.add_embedding_length, HIDDEN),
                           (writer.add_block_count, 1), (writer.add_feed_forward_length, 32), (writer.add_head_count, 1),
                           (writer.add_head_count_kv, 1), (writer.add_key_length, 128), (writer.add_value_length, 128),
                           (writer.add_rope_dimension_count, 16), (writer.add_rope_freq_base, 10000.0),
                           (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_vocab_size, len(self.tokens)),
                           (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "gpt-2"),
                           (writer.add_token_list, self.tokens), (writer.add_token_types, [int(t) for t in self.types]),
                           (writer.add_token_merges, [f"{ALPHABET[32]} t"]), (writer.add_eos_token_id, self.end),
                           (writer.add_chat_template, template)]:
            add(value)
        embedding, head = self.tables()
        # A special token's state is normalised to 1.5 of its code; the output takes that back.
        scale = np.sqrt(HIDDEN / (2 + CODE))
        query, key, value = (np.zeros((128, HIDDEN), np.float32) for _ in range(3))
        output = np.zeros((HIDDEN, 128), np.float32)
        bias = np.zeros(128, np.float32)
        bias[127], key[127, SCRIPT] = 30, 20
        value[:CODE, TOLD], output[TOLD, :CODE] = np.eye(CODE), np.eye(CODE) / scale
        none = np.zeros(128, np.float32)
        for name, array in [("token_embd.weight", embedding), ("output.weight", head),
                            ("output_norm.weight", np.ones(HIDDEN, np.float32)),
                            ("blk.0.attn_norm.weight", np.ones(HIDDEN, np.float32)),
                            ("blk.0.ffn_norm.weight", np.ones(HIDDEN, np.float32)),
                            ("blk.0.attn_q.weight", query), ("blk.0.attn_k.weight", key), ("blk.0.attn_v.weight", value),
                            ("blk.0.attn_q.bias", bias), ("blk.0.attn_k.bias", none), ("blk.0.attn_v.bias", none),
                            ("blk.0.attn_output.weight", output),
                            ("blk.0.ffn_gate.weight", np.zeros((32, HIDDEN), np.float32)),
                            ("blk.0.ffn_up.weight", np.zeros((32, HIDDEN), np.float32)),
                            ("blk.0.ffn_down.weight", np.zeros((HIDDEN, 32), np.float32))]:
            writer.add_tensor(name, np.ascontiguousarray(array))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path
