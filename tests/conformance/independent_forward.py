"""A second oracle: the forward pass of a GGUF file's model, written from the formulas and in double
precision, sharing no code with the program or with transformers. Slow, whole sequences only, no cache."""

import math

import gguf
import numpy as np
import torch

HALF_SPLIT = {"qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma3"}  # the rest of GGUF is interleaved


class IndependentForward:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.fields = {key: field.contents() for key, field in reader.fields.items()
                       if not key.startswith("tokenizer.")}
        self.arch = self.fields["general.architecture"]
        self.tensors = {
            t.name: torch.from_numpy(
                np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32)
                .reshape([int(n) for n in reversed(t.shape)]))
            for t in reader.tensors
        }
        self.gemma = self.arch == "gemma3"
        self.layers = int(self.key("block_count"))
        self.hidden = int(self.key("embedding_length"))
        self.heads = int(self.key("attention.head_count"))
        self.kv_heads = int(self.key("attention.head_count_kv", self.heads))
        self.head_dim = int(self.key("attention.key_length", self.hidden // self.heads))
        self.eps = float(self.key("attention.layer_norm_rms_epsilon"))
        self.window = int(self.key("attention.sliding_window", 0))
        self.vocab = self.tensors["token_embd.weight"].shape[0]

    def key(self, name, default=None):
        value = self.fields.get(f"{self.arch}.{name}", default)
        assert value is not None, f"the file lacks {self.arch}.{name}"
        return value

    def weight(self, name):
        tensor = self.tensors.get(name)
        return None if tensor is None else tensor.double()

    def sliding(self, layer):
        return self.window > 0 and (not self.gemma or (layer + 1) % 6 != 0)

    def frequencies(self, layer):
        """Angle per position of each pair, and the factor on cosine and sine."""
        base = float(self.key("rope.freq_base", 10000.0))
        local = self.gemma and self.sliding(layer)
        if local:
            base = 10000.0
        d = self.head_dim
        inverse = [base ** (-2.0 * i / d) for i in range(d // 2)]
        magnitude = 1.0
        kind = "none" if local else self.key("rope.scaling.type", "none")
        factor = float(self.key("rope.scaling.factor", 1.0))
        if kind == "linear":
            inverse = [f / factor for f in inverse]
        elif kind == "yarn":
            original = float(self.key("rope.scaling.original_context_length"))

            def pair_that_turns(times):
                return d * math.log(original / (2 * math.pi * times)) / (2 * math.log(base))

            low = max(math.floor(pair_that_turns(32.0)), 0)
            high = min(math.ceil(pair_that_turns(1.0)), d - 1)
            for i, f in enumerate(inverse):
                ramp = min(max((i - low) / max(high - low, 1e-3), 0.0), 1.0)
                inverse[i] = f / factor * ramp + f * (1 - ramp)
            magnitude = 0.1 * math.log(factor) + 1.0
        inverse = torch.tensor(inverse, dtype=torch.float64)
        if "rope_freqs.weight" in self.tensors:
            inverse = inverse / self.weight("rope_freqs.weight")
        return inverse, magnitude

    def norm(self, x, name):
        w = self.weight(name + ".weight")
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * w

    def linear(self, x, name):
        y = x @ self.weight(name + ".weight").T
        bias = self.weight(name + ".bias")
        return y if bias is None else y + bias

    def rotate(self, x, inverse, magnitude):  # x: [n, heads, head_dim]
        angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None, None] * inverse
        cos, sin = angle.cos() * magnitude, angle.sin() * magnitude
        out = torch.empty_like(x)
        if self.arch in HALF_SPLIT:
            half = x.shape[-1] // 2
            first, second = slice(0, half), slice(half, None)
        else:
            first, second = slice(0, None, 2), slice(1, None, 2)
        a, b = x[..., first], x[..., second]
        out[..., first] = a * cos - b * sin
        out[..., second] = b * cos + a * sin
        return out

    def attention(self, x, layer):
        n, blk = x.shape[0], f"blk.{layer}."
        q = self.linear(x, blk + "attn_q").view(n, self.heads, self.head_dim)
        k = self.linear(x, blk + "attn_k").view(n, self.kv_heads, self.head_dim)
        v = self.linear(x, blk + "attn_v").view(n, self.kv_heads, self.head_dim)
        if blk + "attn_q_norm.weight" in self.tensors:
            q, k = self.norm(q, blk + "attn_q_norm"), self.norm(k, blk + "attn_k_norm")
        inverse, magnitude = self.frequencies(layer)
        q, k = self.rotate(q, inverse, magnitude), self.rotate(k, inverse, magnitude)
        i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
        visible = j <= i
        if self.sliding(layer):
            visible &= j > i - self.window
        out = torch.empty_like(q)
        for head in range(self.heads):
            kv = head * self.kv_heads // self.heads
            score = q[:, head] @ k[:, kv].T * self.head_dim**-0.5
            out[:, head] = score.masked_fill(~visible, -torch.inf).softmax(-1) @ v[:, kv]
        return self.linear(out.reshape(n, -1), blk + "attn_output")

    def gated(self, x, gate, up, down):
        g = x @ gate.T
        if self.gemma:
            g = 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
        else:
            g = g * torch.sigmoid(g)
        return (g * (x @ up.T)) @ down.T

    def feed_forward(self, x, layer):
        blk = f"blk.{layer}.ffn_"
        if blk + "gate_inp.weight" not in self.tensors:
            return self.gated(x, *(self.weight(f"{blk}{p}.weight") for p in ("gate", "up", "down")))
        gate, up, down = (self.weight(f"{blk}{p}_exps.weight") for p in ("gate", "up", "down"))
        # Not a matrix product: a BLAS may sum the columns of equal experts in different orders, and break their tie.
        chance = (x[:, None, :] * self.weight(blk + "gate_inp.weight")).sum(-1).softmax(-1)
        used = int(self.key("expert_used_count"))
        chosen = torch.sort(chance, dim=-1, descending=True, stable=True)  # ties: the lower index first
        out = torch.zeros_like(x)
        for row in range(x.shape[0]):
            p, experts = chosen.values[row, :used], chosen.indices[row, :used]
            if self.arch != "qwen2moe":
                p = p / p.sum()
            for weight, e in zip(p, experts):
                out[row] += weight * self.gated(x[row], gate[e], up[e], down[e])
        if blk + "gate_shexp.weight" in self.tensors:
            shared = self.gated(x, *(self.weight(f"{blk}{p}_shexp.weight") for p in ("gate", "up", "down")))
            out += torch.sigmoid(x @ self.weight(blk + "gate_inp_shexp.weight").view(-1, 1)) * shared
        return out

    @torch.no_grad()
    def final_hidden(self, ids) -> torch.Tensor:
        x = self.tensors["token_embd.weight"][torch.as_tensor(ids)].double()
        if self.gemma:
            x = x * self.hidden**0.5
        for layer in range(self.layers):
            blk = f"blk.{layer}."
            a = self.attention(self.norm(x, blk + "attn_norm"), layer)
            x = x + (self.norm(a, blk + "post_attention_norm") if self.gemma else a)
            m = self.feed_forward(self.norm(x, blk + "ffn_norm"), layer)
            x = x + (self.norm(m, blk + "post_ffw_norm") if self.gemma else m)
        return self.norm(x, "output_norm")

    @torch.no_grad()
    def head(self, hidden: torch.Tensor) -> np.ndarray:
        """Logits [rows, vocab], the vocabulary in chunks so that no double copy of the matrix is made."""
        matrix = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        out = np.empty((hidden.shape[0], self.vocab), dtype=np.float64)
        for first in range(0, self.vocab, 16384):
            chunk = matrix[first:first + 16384].double()
            out[:, first:first + chunk.shape[0]] = (hidden @ chunk.T).numpy()
        return out

    def logits(self, ids) -> np.ndarray:
        return self.head(self.final_hidden(ids))
