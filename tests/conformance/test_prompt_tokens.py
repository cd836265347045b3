"""Prompt tokens (PPD) against an independent PyTorch implementation: every anchor is a sequence of its own here, the text
up to it and the prompt tokens behind it, so that the program's one pass with many anchors must have the same loss and the
same gradient; and the folder that it writes."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import program
import test_training as base

AHEAD, DECAY = 3, 0.8
TEXTS = [("1+2=", "3456 ab 0123"), ("12+30=", "42 ab 42 ab 42"), ("", "ab0123456789ab"), ("7+8=", "15")]


def run(tmp_path, loss, optimiser, steps):
    weights = base.random_weights("llama", 3)
    base.write_folder(tmp_path / "before", "llama", weights)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in TEXTS))
    recipe = {"name": "conformance", "seed": 3, "model": {"from": str(tmp_path / "before")},
              "tokenizer": {"characters": base.CHARACTERS}, "data": {"jsonl": "data.jsonl", "length": 24},
              "loss": {"kind": "prompt-tokens", "ahead": AHEAD, "decay": DECAY, "anchors": 5, "start": "1+2"} | loss,
              "optimiser": optimiser, "steps": steps, "sequences": 4}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    program.run("train", tmp_path / "recipe.json", "--out", tmp_path / "run", "--trace", tmp_path / "trace.jsonl", "-q",
                "-t", "1")
    trace = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    return {k: v.double() for k, v in weights.items()}, trace


def logits(weights, prompts, tokens, anchor):
    """Of the rows behind `anchor`, with nothing else in the sequence: [AHEAD, VOCAB]."""
    table = torch.cat([weights["model.embed_tokens.weight"], prompts])
    row = torch.tensor(tokens[:anchor + 1] + [base.VOCAB + i for i in range(AHEAD)])
    n = len(row)
    return base.logits_of(weights | {"model.embed_tokens.weight": table}, "llama", row, torch.arange(n),
                          base.attention("causal", n))[-AHEAD:]


def step_loss(weights, prompts, step, teacher):
    loss, count, clean = 0, 0, {tuple(base.ids(p + a) + [base.END]): len(p) for p, a in TEXTS}
    anchored = 0
    for s in step["sequences"]:
        text = [t for t in s["tokens"] if t >= 0]
        assert tuple(text) in clean and s["tokens"][len(text):] == [-1] * (len(s["tokens"]) - len(text))
        assert s["predicted"] == list(range(len(text), len(s["tokens"])))
        n = len(text)
        whole = base.logits_of(weights, "llama", torch.tensor(text), torch.arange(n), base.attention("causal", n))
        anchors = [s["positions"][row] - 1 for row in s["predicted"][::AHEAD]]
        assert anchors == sorted(set(anchors)) and len(anchors) <= 5
        assert all(max(clean[tuple(text)] - 1, 0) <= a and a + AHEAD + 1 < n for a in anchors)
        anchored += len(anchors) > 0
        for k, anchor in enumerate(anchors):
            rows = logits(weights, prompts, text, anchor).log_softmax(-1)
            for i in range(AHEAD):
                assert s["targets"][AHEAD * k + i] == text[anchor + i + 2]
                if teacher == "model":
                    said = whole[anchor + i + 1].log_softmax(-1)
                    part = (said.exp() * (said - rows[i])).sum()
                else:
                    part = -rows[i, text[anchor + i + 2]]
                loss, count = loss + DECAY ** i * part, count + 1
    assert anchored == 3  # the fourth text is too short for one
    return loss / count


@pytest.mark.parametrize("teacher", ["model", "text"])
def test_steps_are_those_of_one_sequence_per_anchor(tmp_path, teacher):
    rate, steps = 0.5, 3
    weights, trace = run(tmp_path, {"teacher": teacher}, {"kind": "sgd", "learning_rate": rate}, steps)
    prompts = weights["model.embed_tokens.weight"][base.ids("1+2")].clone().requires_grad_()
    for step in trace:
        loss = step_loss(weights, prompts, step, teacher)
        assert abs(step["loss"] - loss.item()) <= 1e-5 * loss.item()
        gradient, = torch.autograd.grad(loss, [prompts])
        assert abs(step["gradient_norm"] - math.sqrt((gradient ** 2).sum().item())) <= 1e-4 * step["gradient_norm"]
        prompts = (prompts - rate * gradient).detach().requires_grad_()
    got = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")["prompt_embeddings"].double()
    moved = (prompts - weights["model.embed_tokens.weight"][base.ids("1+2")]).abs().max().item()
    assert moved > 1e-2 and (got - prompts).abs().max().item() <= 1e-4 * moved
    assert not (tmp_path / "run" / "model").exists()  # the network did not move


def test_the_folder_has_peft_s_names(tmp_path):
    """That peft 0.21 loads such a folder as prompt tuning, with the same numbers, was seen once by hand."""
    run(tmp_path, {}, {"learning_rate": 1e-2}, 2)
    folder = tmp_path / "run" / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"], config["token_dim"]) == ("PROMPT_TUNING", 3, base.HIDDEN)
    assert config["base_model_name_or_path"] == str(tmp_path / "before")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert list(tensors) == ["prompt_embeddings"] and tensors["prompt_embeddings"].shape == (3, base.HIDDEN)
