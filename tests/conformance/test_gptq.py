"""`tutti quantize --method gptq|rtn` against GPTQ in numpy on transformers' models: column by column, with the explicit
inverse of the Hessian, and the inputs of every linear layer taken by hooks from the model quantised so far."""

import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are tiny: threads would only wait for each other

import gguf
import numpy as np
import pytest
import torch
import transformers

import program
import real_models
import tiny_checkpoints

torch.set_num_threads(1)

WINDOW = 48
STAGES = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"],
          ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]
FAMILIES = {f.name: f for f in tiny_checkpoints.FAMILIES}


def half(x):
    return np.float64(np.float16(np.float32(x)))


def code(w, scale):
    shifted = np.where(scale == 0, 0, w / np.where(scale == 0, 1, scale))
    rounded = np.trunc(shifted + np.copysign(0.5, shifted))  # ties away from zero
    return np.clip(rounded + 8, 0, 15).astype(int)


def nearest(w, group):
    codes, scales = np.zeros(w.shape, int), []
    for first in range(0, w.shape[1], group):
        part = w[:, first:first + group].astype(np.float64)
        s = half(2 * np.abs(part).max(1) / 15)
        scales.append(s)
        codes[:, first:first + group] = code(part, s[:, None])
    return codes, np.stack(scales, 1)


def gptq(w, hessian, group, damping=0.1):
    w, h = w.astype(np.float64), hessian.copy()
    h += np.eye(len(h)) * damping * np.diag(h).mean()
    inverse = np.linalg.inv(h)
    codes, scales = np.zeros(w.shape, int), []
    for i in range(w.shape[1]):
        if i % group == 0:
            scales.append(half(2 * np.abs(w[:, i:i + group]).max(1) / 15))
        q = code(w[:, i], scales[-1])
        codes[:, i] = q
        error = (w[:, i] - (q - 8) * scales[-1]) / inverse[i, i]
        w -= np.outer(error, inverse[i])
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes, np.stack(scales, 1)


def dequantised(codes, scales, group):
    return (codes - 8) * np.repeat(scales, group, axis=1)[:, :codes.shape[1]]


@torch.no_grad()
def quantised_model(folder, ids, group, method):
    """{linear's name: (codes, scales, relative error of its outputs, that of rounding)}, in the order of the layers."""
    with tiny_checkpoints.quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.set_attn_implementation("eager")
    windows = [torch.tensor([ids[i:i + WINDOW]]) for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
    results = {}
    for number in range(model.config.num_hidden_layers):
        for stage in STAGES:
            name = f"model.layers.{number}.{stage[0]}"
            rows = []
            hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: rows.append(args[0][0].double()))
            for window in windows:
                model(window, use_cache=False)
            hook.remove()
            x = torch.cat(rows).numpy()
            hessian = x.T @ x
            for part in stage:
                name = f"model.layers.{number}.{part}"
                weight = model.get_submodule(name).weight
                w = weight.numpy().astype(np.float64)
                rounded = nearest(w, group)
                codes, scales = gptq(w, hessian, group) if method == "gptq" else rounded
                q = dequantised(codes, scales, group)
                norm = np.linalg.norm(x @ w.T)
                results[name] = (codes, scales, np.linalg.norm(x @ (w - q).T) / norm,
                                 np.linalg.norm(x @ (w - dequantised(*rounded, group)).T) / norm)
                weight.copy_(torch.from_numpy(q))
    return results


def blocks(tensor):
    """Codes [out, in] and scales [out, in / 32] of a Q4_0 tensor."""
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0, tensor.name
    raw = tensor.data.view(np.uint8).reshape(tensor.data.shape[0], -1, 18)
    scales = raw[:, :, :2].copy().view(np.float16)[:, :, 0].astype(np.float64)
    codes = np.concatenate([raw[:, :, 2:] & 15, raw[:, :, 2:] >> 4], axis=2)
    return codes.reshape(len(codes), -1).astype(int), scales


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("family, group", [("llama", 32), ("llama-one-kv-head", 64), ("qwen2", 32), ("qwen3", 128),
                                           ("gemma3", 64)])
def test_codes_are_those_of_numpy(tmp_path, family, group, method):
    family = FAMILIES[family]
    folder = tiny_checkpoints.write_folder(family, tiny_checkpoints.make_model(family), tmp_path / "model")
    text = tmp_path / "text"
    text.write_text(real_models.text().read_text()[:3000])
    tokenizer = tiny_checkpoints.tiny_tokenizer()[0]
    ids = tokenizer.encode(text.read_text()).ids[:WINDOW * 8 + 5]
    expected = quantised_model(folder, ids, group, method)
    report = json.loads(program.run("quantize", "-m", folder, tmp_path / "out.gguf", "Q4_0", "--method", method,
                                    "--group", group, "--calibration", text, "--calibration-tokens", len(ids),
                                    "--window", WINDOW, "--json"))
    reported = {t["name"]: t for t in report["linears"]}
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    config = tiny_checkpoints.make_config(family)
    llama = family.kind == "Llama"
    same = total = 0
    for name, (codes, scales, error, rounding) in expected.items():
        target = tiny_checkpoints.gguf_name(name + ".weight", "llama" if llama else family.gguf_arch)
        repeated = np.repeat(scales, group // 32, axis=1)[:, :codes.shape[1] // 32]
        if llama and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            codes, repeated = (tiny_checkpoints.interleaved(a, heads) for a in (codes, repeated))
        got, got_scales = blocks(tensors[target])
        assert got.shape == codes.shape and got_scales.shape == repeated.shape, target
        if method == "rtn":
            assert np.array_equal(got, codes) and np.array_equal(got_scales, repeated), target
        # fp32 rows against double ones: a code at a tie may fall to the other side, and later ones make up for it.
        same += (got == codes).sum()
        total += codes.size
        assert np.abs(got - codes).max() <= 3, target
        assert np.allclose(got_scales, repeated, rtol=0.05), target
        # Roots of sums over all rows: a code more or less does not show.
        assert reported[target]["output_error"] == pytest.approx(error, rel=0.02), target
        assert reported[target]["output_error_rtn"] == pytest.approx(rounding, rel=0.02), target
        if method == "gptq":
            assert error < rounding, target
    assert same >= 0.995 * total, f"{total - same} of {total} codes differ"
    assert len(reported) == len(expected)
