"""Folders of GPTQ, AWQ, compressed-tensors, MARLIN and Sparse-MARLIN weights, packed here from their published layouts,
against the same model with the weights that they stand for: logits must have the same bits."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import program
import tiny_checkpoints
from closeness import check_same_bits
from quantised_layers import Layer, awq, compressed_tensors, gptq, gptq_v2, marlin, sparse_marlin
from tiny_checkpoints import VOCAB, Family

IDS = [5, 70, 12, 200, 33, 90, 41, 7, 150, 66, 2]
WIDE = Family("llama-wide", "Llama", dict(hidden_size=256, intermediate_size=512, num_attention_heads=4,
                                          num_key_value_heads=4, num_hidden_layers=1))


def ct_config(bits, group):
    weights = dict(num_bits=bits, type="int", symmetric=True, strategy="channel" if group is None else "group",
                   group_size=group)
    return dict(quant_method="compressed-tensors", format="pack-quantized", ignore=["lm_head"],
                config_groups=dict(group_0=dict(targets=["Linear"], weights=weights)))


GPTQ = dict(quant_method="gptq", bits=4, sym=True, desc_act=False)
CASES = {  # pack, quantization_config, bits, group, extras of Layer
    "gptq-32": (gptq, GPTQ | dict(group_size=32), 4, 32, {}),
    "gptq-64": (gptq, GPTQ | dict(group_size=64), 4, 64, {}),
    "gptq-128": (gptq, GPTQ | dict(group_size=128), 4, 128, {}),
    "gptq-columns": (gptq, GPTQ | dict(group_size=-1), 4, 10 ** 6, {}),
    "gptq-zeros": (gptq, GPTQ | dict(group_size=64, sym=False), 4, 64, dict(zeros=16)),
    "gptq-v2": (gptq_v2, GPTQ | dict(group_size=64, checkpoint_format="gptq_v2"), 4, 64, {}),
    "gptq-order": (gptq, GPTQ | dict(group_size=64, desc_act=True), 4, 64, dict(order=True)),
    "gptq-8-bits": (gptq, GPTQ | dict(group_size=64, bits=8), 8, 64, {}),
    "awq": (awq, dict(quant_method="awq", bits=4, group_size=64, version="gemm", zero_point=True), 4, 64, dict(zeros=15)),
    "ct": (compressed_tensors, ct_config(4, 128), 4, 128, {}),
    "ct-columns": (compressed_tensors, ct_config(4, None), 4, 10 ** 6, {}),
    "ct-zeros": (compressed_tensors, ct_config(4, 64), 4, 64, dict(zeros=15)),
    "ct-order": (compressed_tensors, ct_config(4, 64), 4, 64, dict(order=True)),
    "ct-8-bits": (compressed_tensors, ct_config(8, 64), 8, 64, {}),
    "marlin-128": (marlin, dict(quant_method="marlin", group_size=128), 4, 128, {}),
    "marlin-columns": (marlin, GPTQ | dict(group_size=-1, checkpoint_format="marlin"), 4, 10 ** 6, {}),
    "sparse-128": (sparse_marlin, dict(quant_method="gptq_marlin_24", group_size=128), 4, 128, dict(sparse=True)),
    "sparse-columns": (sparse_marlin, GPTQ | dict(group_size=-1, checkpoint_format="marlin_24"), 4, 10 ** 6, dict(sparse=True)),
}
SAME_TYPE = {"gptq-zeros": "Q5_0", "ct-zeros": "Q5_0", "awq": "Q5_0", "gptq-8-bits": "Q8_0", "ct-8-bits": "Q8_0",
             "gptq-order": "F32", "ct-order": "F32"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_checkpoints.write_folder(WIDE, tiny_checkpoints.make_model(WIDE), tmp_path_factory.mktemp("plain"))


def folders(plain, tmp_path, case):
    """The model with one layout's weights, and the same with what they stand for."""
    pack, config, bits, group, extras = CASES[case]
    rng = np.random.default_rng(len(case))
    stored, meant = {}, {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        prefix, _, last = name.rpartition(".")
        if not prefix.endswith("_proj"):
            stored[name] = meant[name] = tensor
            continue
        layer = Layer(tensor.numpy(), bits, min(group, tensor.shape[1]), rng, **extras)
        meant[name] = layer.weight()
        stored |= {f"{prefix}.{part}": t.contiguous() for part, t in pack(layer).items()}
        if pack is gptq:  # as AutoGPTQ writes it
            stored[f"{prefix}.bias"] = torch.zeros(tensor.shape[0], dtype=torch.float16)
    made = []
    for kind, tensors in (("stored", stored), ("meant", meant)):
        folder = tmp_path / kind
        folder.mkdir()
        for file in plain.glob("*.json"):
            (folder / file.name).write_text(file.read_text())
        if kind == "stored":
            whole = json.loads((folder / "config.json").read_text()) | dict(quantization_config=config)
            (folder / "config.json").write_text(json.dumps(whole))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        made.append(folder)
    return made


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_weights_meant(plain, tmp_path, case):
    stored, meant = folders(plain, tmp_path, case)
    got = program.logits(stored, IDS, VOCAB, tmp_path / "stored.f32")
    wanted = program.logits(meant, IDS, VOCAB, tmp_path / "meant.f32")
    assert np.abs(wanted).max() > 0.5
    check_same_bits(case, got, wanted)
    # Converted, the values stay what they were, in the smallest type that holds them.
    program.run("quantize", "-m", stored, tmp_path / "out.gguf", "COPY", "--json")
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    up = tensors["blk.0.ffn_up.weight"]
    assert up.tensor_type.name == SAME_TYPE.get(case, "Q4_0")
    assert np.array_equal(gguf.quants.dequantize(up.data, up.tensor_type),
                          load_file(meant / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].numpy())


def test_older_config_file(plain, tmp_path):
    stored, meant = folders(plain, tmp_path, "gptq-64")
    config = json.loads((stored / "config.json").read_text())
    own = config.pop("quantization_config")
    own.pop("quant_method")
    (stored / "config.json").write_text(json.dumps(config))
    (stored / "quantize_config.json").write_text(json.dumps(own))
    check_same_bits("older", program.logits(stored, IDS, VOCAB, tmp_path / "a"), program.logits(meant, IDS, VOCAB, tmp_path / "b"))
