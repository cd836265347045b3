"""Fine-tuning against independent implementations: adapters as torch trains them, and models that come from GGUF files
with their tokenizers as `tokenizers` and `transformers` read what is written."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import program
import real_models
import test_training as base
from mixed_text import mixed_lines
from test_tokenizers import DIGITS_GPT2, VOCABULARIES, byte_level_oracle, compare, tutti
from gguf_metadata import read_metadata


def run(folder, *arguments, **options):
    folder.mkdir()
    return base.run(folder, *arguments, **options)


def adapters_of(folder):
    return {k: v.double() for k, v in load_file(folder / "run" / "adapter" / "adapter_model.safetensors").items()}


@pytest.mark.parametrize("family,options,modules", [
    ("llada", {"kind": "masked"}, ["q_proj", "up_proj"]),
    ("qwen2", {"kind": "next-token", "mean": "sequences"}, ["q_proj", "up_proj"]),
    ("sdar", {"kind": "block"}, ["q_proj", "up_proj"])], ids=["llada", "qwen2", "sdar"])
def test_adapters(tmp_path, family, options, modules):
    """W + alpha / rank B A with W frozen: three steps, the adapters, the norm of their gradients and the merged model."""
    steps, rank, alpha, rate = 3, 3, 5.0, 0.5
    recipe = {"lora": {"rank": rank, "alpha": alpha, "targets": ["q", "up"], "first_layer": 1}, "loss": options}
    run(tmp_path / "still", family, recipe | {"optimiser": {"kind": "sgd", "learning_rate": 0.0}}, steps=1)
    before, trace, log, after = run(tmp_path / "moved", family, recipe | {
        "optimiser": {"kind": "sgd", "learning_rate": rate}}, steps=steps)
    name, at = base.names(family), base.names(family)["layer"].format(1)
    matrices = [at + name[part] for part in "qu"]
    adapters = adapters_of(tmp_path / "still")
    assert set(adapters) == {f"base_model.model.{m}.lora_{x}.weight" for m in matrices for x in "AB"}
    adapters = {k: v.requires_grad_() for k, v in adapters.items()}
    assert all((v == 0).all() for k, v in adapters.items() if "lora_B" in k)
    start = {k: v.detach().clone() for k, v in adapters.items()}

    def merged():
        weights = {k: v.double() for k, v in before.items()}
        for m in matrices:
            a, b = (adapters[f"base_model.model.{m}.lora_{x}.weight"] for x in "AB")
            weights[m + ".weight"] = weights[m + ".weight"] + alpha / rank * b @ a
        return weights

    for i, step in enumerate(trace):
        loss = base.step_loss(merged(), family, step, options)
        assert abs(step["loss"] - loss.item()) <= 1e-5 * abs(loss.item())
        gradients = torch.autograd.grad(loss, list(adapters.values()))
        norm = math.sqrt(sum((g ** 2).sum().item() for g in gradients))
        assert abs(log[i]["gradient_norm"] - norm) <= 1e-4 * norm
        adapters = {k: (v - rate * g).detach().requires_grad_() for (k, v), g in zip(adapters.items(), gradients)}
    got = adapters_of(tmp_path / "moved")
    for k, v in adapters.items():
        moved = (v - start[k]).abs().max()
        assert moved > 0
        assert (got[k] - v).abs().max() <= 1e-4 * moved, k
    for k, v in merged().items():
        if k.removesuffix(".weight") not in matrices:
            assert torch.equal(after[k], before[k]), k
        assert (after[k] - v).abs().max() <= 1e-5 * v.abs().max(), k
    config = json.loads((tmp_path / "moved" / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", rank, alpha)
    assert config["target_modules"] == modules and config["layers_to_transform"] == [1]
    assert config["base_model_name_or_path"] == str(tmp_path / "moved" / "before")


@pytest.mark.parametrize("family", ["llama", "llada", "dream", "qwen2"])
def test_from_a_gguf_file(tmp_path, family):
    """Weights of a GGUF file are the folder's that it was made of; llama's as dream or qwen2 have biases of 0."""
    base.run(tmp_path, "llama", {"loss": {"kind": "next-token"}, "optimiser": {"learning_rate": 0.0}}, steps=1)
    program.run("quantize", "-m", tmp_path / "run" / "model", tmp_path / "model.gguf", "F32", "-q")
    options = {"kind": "masked" if family in ("llada", "dream") else "next-token"}
    before, trace, _, after = run(tmp_path / "gguf", "llama", {
        "model": {"from": str(tmp_path / "model.gguf"), "family": family}, "tokenizer": {"mask": "<|mask|>"},
        "loss": options, "optimiser": {"learning_rate": 0.0}}, steps=1)
    expected = {}
    for key, llama in base.COMMON.items():
        for i in range(base.LAYERS):
            to, source = (n["layer"].format(i) if key not in ("embed", "norm", "head") else "" for n in
                          (base.names(family), base.COMMON))
            if source + llama + ".weight" in before:
                expected[to + base.names(family)[key] + ".weight"] = before[source + llama + ".weight"]
            if key in "qkv" and family in ("qwen2", "dream"):
                expected[to + llama + ".bias"] = torch.zeros(before[source + llama + ".weight"].shape[0])
    assert set(after) == set(expected)
    assert all(torch.equal(after[k], v) for k, v in expected.items())
    config = json.loads((tmp_path / "gguf" / "run" / "model" / "config.json").read_text())
    assert config["architectures"] == [base.NETWORK[family]] and config["rope_theta"] == base.THETA
    loss = base.step_loss({k: v.double() for k, v in expected.items()}, family, trace[0], options)
    assert abs(trace[0]["loss"] - loss.item()) <= 1e-5 * loss.item()


def written_tokenizer(tmp_path, model, mask=""):
    """The folder of a small new network with this model's tokenizer."""
    (tmp_path / "text.txt").write_text(real_models.text().read_text()[:4000])
    (tmp_path / "recipe.json").write_text(json.dumps({
        "name": "tokenizer", "model": {"family": "llama", "layers": 1, "hidden": 16, "heads": 1, "intermediate": 16,
                                       "context": 16, "tied_head": True},
        "tokenizer": {"from": str(model)} | ({"mask": mask} if mask else {}), "data": {"text": "text.txt", "length": 16},
        "loss": {"kind": "next-token"}, "optimiser": {"learning_rate": 0.001}, "steps": 1, "sequences": 1}))
    program.run("train", tmp_path / "recipe.json", "--out", tmp_path / "run", "-q", "-t", "1")
    return tmp_path / "run" / "model"


def read_by_library(folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_tokenizer_of_smollm2(tmp_path):
    """What is written of the GGUF file's vocabulary, read by the library that defines the format."""
    import transformers

    model = real_models.smollm2()
    folder = written_tokenizer(tmp_path, model, mask="<empty_output>")
    lines = mixed_lines(6000, ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<empty_output>"])
    lines += real_models.text().read_text().split("\n\n")
    written = read_by_library(folder)
    ids = [e.ids for e in written.encode_batch(lines, add_special_tokens=False)]
    oracle = byte_level_oracle(read_metadata(model), DIGITS_GPT2)
    compare(ids, [e.ids for e in oracle.encode_batch(lines, add_special_tokens=False)], lines)
    compare(tutti(folder, lines), ids, lines)
    compare(tutti(folder, ids, "--decode"), written.decode_batch(ids, skip_special_tokens=False), lines)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.mask_token) == ("<|im_start|>", "<|im_end|>",
                                                                                "<empty_output>")
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    mine = program.run("run", "-m", model, "-p", "What is 2 + 2?", "-n", "1", "--json", "-q", "-t", "1")
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == json.loads(mine)["prompt_ids"]


@pytest.mark.parametrize("name", "deepseek-coder falcon gpt-2 llama-bpe qwen2 starcoder".split())
def test_tokenizer_of_a_vocabulary_file(tmp_path, name):
    model = VOCABULARIES / f"ggml-vocab-{name}.gguf"
    if not model.exists():
        pytest.skip("no peer: bash bench/peers/llama.cpp/fetch.sh")
    folder = written_tokenizer(tmp_path, model)
    lines = mixed_lines(3000, [])
    written = read_by_library(folder)
    ids = [e.ids for e in written.encode_batch(lines, add_special_tokens=False)]
    compare(ids, tutti(model, lines), lines)
    compare(tutti(folder, lines), ids, lines)
    metadata = read_metadata(model)
    wants_bos = metadata.get("tokenizer.ggml.add_bos_token", name == "llama-bpe")  # that family's files leave it out
    assert (written.encode("a").ids[0] == metadata["tokenizer.ggml.bos_token_id"]) == wants_bos


def test_smollm2_as_a_masked_model(tmp_path):
    """The loss of SmolLM2's weights seen from both sides with shifted logits, beside transformers' network."""
    pairs = [("The capital of France is", " Paris, a city on the river Seine."),
             ("Water boils at", " 100 degrees Celsius at the level of the sea.")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in pairs))
    mask = "<empty_output>"
    (tmp_path / "recipe.json").write_text(json.dumps({
        "name": "real", "model": {"from": "smollm2", "family": "dream"}, "tokenizer": {"mask": mask},
        "data": {"jsonl": "data.jsonl", "length": 32}, "loss": {"kind": "masked", "never_mask_logit": True},
        "lora": {"rank": 2}, "optimiser": {"learning_rate": 0.0}, "steps": 1, "sequences": 4}))
    program.run("train", tmp_path / "recipe.json", "--out", tmp_path / "run", "--trace", tmp_path / "trace.jsonl", "-q",
                "-t", "1")
    trace = json.loads((tmp_path / "trace.jsonl").read_text())
    model = real_models.transformers_model(real_models.smollm2())
    mask_id = read_metadata(real_models.smollm2())["tokenizer.ggml.tokens"].index(mask)
    prompts = tutti(real_models.smollm2(), [p for p, _ in pairs])
    total, answers = 0.0, 0
    for s in trace["sequences"]:
        n = len(s["tokens"])
        with torch.no_grad():
            logits = model(torch.tensor([s["tokens"]]), attention_mask=torch.zeros(1, 1, n, n)).logits[0].double()
        logits[:, mask_id] = -math.inf
        for row, target in zip(s["predicted"], s["targets"]):
            assert s["tokens"][row + 1] == mask_id
            total += (torch.logsumexp(logits[row], 0) - logits[row, target]).item() / s["rates"][0]
        prompt, = [p for p in prompts if s["tokens"][:len(p)] == p]
        answers += n - len(prompt)
    assert sum(len(s["predicted"]) for s in trace["sequences"]) > 10
    assert abs(trace["loss"] - total / answers) <= 1e-4 * total / answers
