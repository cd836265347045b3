"""Training against an independent PyTorch implementation: the network, the attention masks, the losses, AdamW, the
schedule, clipping and the average are written here from their definitions and share nothing with the program. What is
taken from the program is the noise it drew (--trace), which is checked to be noise on the data."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import program

CHARACTERS = "0123456789+= ab"
END, MASK = len(CHARACTERS), len(CHARACTERS) + 1
VOCAB = len(CHARACTERS) + 2
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE, BLOCK = 2, 64, 4, 2, 16, 96, 4
THETA, EPS = 10000.0, 1e-5

torch.set_num_threads(1)

# name: (biases on q, k, v; norms of heads; logits shifted; how a sequence is seen)
FAMILIES = {"llama": (False, False, True, "causal"), "qwen2": (True, False, True, "causal"),
            "qwen3": (False, True, True, "causal"), "llada": (False, False, False, "full"),
            "dream": (True, False, True, "full"), "sdar": (False, True, False, "block")}
NETWORK = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
           "llada": "LLaDAModelLM", "dream": "DreamModel", "sdar": "SDARForCausalLM"}


# ---- the network ----

COMMON = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head", "layer": "model.layers.{}.",
          "n1": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
          "o": "self_attn.o_proj", "qn": "self_attn.q_norm", "kn": "self_attn.k_norm",
          "n2": "post_attention_layernorm", "g": "mlp.gate_proj", "u": "mlp.up_proj", "d": "mlp.down_proj"}
LLADA = {"embed": "model.transformer.wte", "norm": "model.transformer.ln_f", "head": "model.transformer.ff_out",
         "layer": "model.transformer.blocks.{}.", "n1": "attn_norm", "q": "q_proj", "k": "k_proj", "v": "v_proj",
         "o": "attn_out", "n2": "ff_norm", "g": "ff_proj", "u": "up_proj", "d": "ff_out"}


def names(family):
    return LLADA if family == "llada" else COMMON


def random_weights(family, seed, tied=False):
    bias, head_norm, *_ = FAMILIES[family]
    name = names(family)
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def matrix(key, out, width):
        weights[key + ".weight"] = torch.randn(out, width, generator=generator) * 1.4 / math.sqrt(width)

    def vector(key, n, mean):
        weights[key] = mean + 0.2 * torch.randn(n, generator=generator)

    matrix(name["embed"], VOCAB, HIDDEN)
    vector(name["norm"] + ".weight", HIDDEN, 1)
    if not tied:
        matrix(name["head"], VOCAB, HIDDEN)
    for i in range(LAYERS):
        at = name["layer"].format(i)
        for norm in ("n1", "n2"):
            vector(at + name[norm] + ".weight", HIDDEN, 1)
        for part, out, width in (("q", HEADS * HEAD_DIM, HIDDEN), ("k", KV_HEADS * HEAD_DIM, HIDDEN),
                                 ("v", KV_HEADS * HEAD_DIM, HIDDEN), ("o", HIDDEN, HEADS * HEAD_DIM),
                                 ("g", WIDE, HIDDEN), ("u", WIDE, HIDDEN), ("d", HIDDEN, WIDE)):
            matrix(at + name[part], out, width)
            if bias and part in "qkv":
                vector(at + name[part] + ".bias", out, 0)
        if head_norm:
            vector(at + name["qn"] + ".weight", HEAD_DIM, 1)
            vector(at + name["kn"] + ".weight", HEAD_DIM, 1)
    return weights


def rms(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def rotate(x, positions):  # [rows, heads, HEAD_DIM]
    half = HEAD_DIM // 2
    frequency = THETA ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = (positions.double()[:, None] * frequency)[:, None, :]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def logits_of(weights, family, tokens, positions, sees):
    """[rows, VOCAB] of one sequence; sees[i, j]: row i attends to row j."""
    name = names(family)
    x = weights[name["embed"] + ".weight"][tokens]
    for i in range(LAYERS):
        at = name["layer"].format(i)

        def linear(part, y):
            bias = weights.get(at + name[part] + ".bias")
            z = y @ weights[at + name[part] + ".weight"].T
            return z if bias is None else z + bias

        y = rms(x, weights[at + name["n1"] + ".weight"])
        q = linear("q", y).view(-1, HEADS, HEAD_DIM)
        k = linear("k", y).view(-1, KV_HEADS, HEAD_DIM)
        v = linear("v", y).view(-1, KV_HEADS, HEAD_DIM)
        if "qn" in name and at + name["qn"] + ".weight" in weights:
            q, k = rms(q, weights[at + name["qn"] + ".weight"]), rms(k, weights[at + name["kn"] + ".weight"])
        q, k = rotate(q, positions), rotate(k, positions)
        heads = []
        for head in range(HEADS):
            shared = head // (HEADS // KV_HEADS)
            score = q[:, head] @ k[:, shared].T / math.sqrt(HEAD_DIM)
            heads.append(score.masked_fill(~sees, -math.inf).softmax(-1) @ v[:, shared])
        x = x + linear("o", torch.cat(heads, -1))
        y = rms(x, weights[at + name["n2"] + ".weight"])
        x = x + linear("d", torch.nn.functional.silu(linear("g", y)) * linear("u", y))
    head = weights.get(name["head"] + ".weight", weights[name["embed"] + ".weight"])
    return rms(x, weights[name["norm"] + ".weight"]) @ head.T


# ---- folders, recipes, data ----


def write_folder(folder, family, weights, tied=False):
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if family == "llada":
        config = {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS,
                  "mlp_hidden_size": WIDE, "vocab_size": VOCAB, "embedding_size": VOCAB, "max_sequence_length": 64,
                  "rope_theta": THETA, "rms_norm_eps": EPS, "weight_tying": tied, "mask_token_id": MASK,
                  "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True}
    else:
        config = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                  "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": WIDE,
                  "vocab_size": VOCAB, "max_position_embeddings": 64, "rope_theta": THETA, "rms_norm_eps": EPS,
                  "tie_word_embeddings": tied}
        if family in ("dream", "sdar"):
            config["mask_token_id"] = MASK
        if family == "sdar":
            config["block_size"] = BLOCK
    types = {"dream": "Dream"}
    config |= {"architectures": [NETWORK[family]], "model_type": types.get(family, family)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


DATA = [("1+2=", "3"), ("12+30=", "42 ab"), ("", "ab0123456789"), ("7+8=", "15"), ("99+1=", "100 a"), ("5=", "5")]


def ids(text):
    return [CHARACTERS.index(c) for c in text]


def clean_examples():
    return {tuple(ids(p) + ids(a) + [END]): len(p) for p, a in DATA}


def run(tmp_path, family, recipe, *, steps, tied=False, seed=3, arguments=()):
    """The weights before, the trace of every step, the log, and the weights of the saved folder."""
    weights = random_weights(family, seed, tied)
    write_folder(tmp_path / "before", family, weights, tied)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in DATA))
    recipe = {"name": "conformance", "seed": seed, "model": {"from": str(tmp_path / "before")},
              "tokenizer": {"characters": CHARACTERS}, "data": {"jsonl": "data.jsonl", "length": 24},
              "steps": steps, "sequences": 4} | recipe
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    program.run("train", tmp_path / "recipe.json", "--out", tmp_path / "run", "--trace", tmp_path / "trace.jsonl", "-q",
                "-t", "1", *arguments)
    trace = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in trace] == list(range(1, steps + 1))
    return weights, trace, log, load_file(tmp_path / "run" / "model" / "model.safetensors")


# ---- the losses, from their definitions ----


def cross_entropy(logits, target):
    return -torch.log_softmax(logits, -1)[target]


def attention(kind, n):
    if kind == "causal":
        return torch.tensor([[j <= i for j in range(n)] for i in range(n)])
    if kind == "full":
        return torch.ones(n, n, dtype=torch.bool)
    sees = torch.zeros(2 * n, 2 * n, dtype=torch.bool)  # [x_t | x_0], the three terms of the sheet
    for i in range(2 * n):
        for j in range(2 * n):
            block_i, block_j, noisy_i, noisy_j = i % n // BLOCK, j % n // BLOCK, i < n, j < n
            sees[i, j] = ((block_i == block_j and noisy_i == noisy_j)
                          or (noisy_i and not noisy_j and block_j < block_i)
                          or (not noisy_i and not noisy_j and block_j <= block_i))
    return sees


def restored(sequence, family):
    """The clean tokens, the prompt's length and the masked positions of a traced sequence. Fails when the noise is
    not masks on the answer of one of the examples."""
    shifted, kind = FAMILIES[family][2:]
    tokens = list(sequence["tokens"])
    if kind == "block":
        n = len(tokens) // 2
        tokens, given = tokens[:n], tokens[n:]
    masked = [i for i, token in enumerate(tokens) if token == MASK]
    clean = list(tokens)
    by_row = dict(zip(sequence["predicted"], sequence["targets"]))
    for i in masked:
        clean[i] = by_row[i - 1 if shifted else i]
    prompt = clean_examples()[tuple(clean)]  # a KeyError: it is none of the examples
    assert all(i >= prompt for i in masked)
    if kind == "block":
        assert given == clean
    return clean, prompt, masked


def sequence_loss(weights, family, sequence, options):
    """Sum of weighted cross entropies of one sequence, its answer's tokens and how many are predicted."""
    shifted, kind = FAMILIES[family][2:]
    if kind == "causal":
        clean = list(sequence["tokens"])
        prompt = clean_examples()[tuple(clean)]
        n = len(clean)
        logits = logits_of(weights, family, torch.tensor(clean), torch.arange(n), attention("causal", n))
        losses = [cross_entropy(logits[i - 1], clean[i]) for i in range(max(prompt, 1), n)]
        return sum(losses), n - max(prompt, 1), len(losses)
    clean, prompt, masked = restored(sequence, family)
    n = len(clean)
    noisy = [MASK if i in masked else t for i, t in enumerate(clean)]
    tokens, positions = noisy, list(range(n))
    if kind == "block":
        tokens, positions = noisy + clean, positions + positions
    logits = logits_of(weights, family, torch.tensor(tokens), torch.tensor(positions), attention(kind, n))
    if options.get("never_mask_logit"):
        keep = torch.arange(VOCAB) != MASK
        logits = logits.masked_fill(~keep, -math.inf)
    total = logits.new_zeros(())
    for i in masked:
        rates = sequence["rates"]
        rate = rates[i // BLOCK] if options.get("time_per_block") else rates[0]
        weight = {"inverse": 1 / rate, "one": 1.0}.get(options.get("weight", "inverse"))
        if weight is None:  # Dream's, over the unmasked tokens
            q = options["context"]
            weight = sum(0.5 * q * (1 - q) ** (abs(i - j) - 1) for j in range(n) if j not in masked)
        total = total + weight * cross_entropy(logits[i - 1 if shifted else i], clean[i])
    first = max(prompt, 1 if shifted else 0)
    return total, n - first, len(masked)


def step_loss(weights, family, step, options):
    parts = [sequence_loss(weights, family, s, options) for s in step["sequences"]]
    mean = options.get("mean", "tokens")
    if mean == "sequences":
        return sum(loss / answer for loss, answer, _ in parts) / len(parts)
    return sum(loss for loss, _, _ in parts) / sum(p[1 if mean == "tokens" else 2] for p in parts)


def certainty_loss(weights, family, step, options):
    """dParallel: each example twice, complementary halves of one block masked and all behind it; the mean cross entropy
    of the masked ones, and beta times the mean entropy of those that are right."""
    shifted = FAMILIES[family][2]
    length, beta = options.get("certainty_block", 32), options.get("certainty_weight", 2.0)
    temperature = options.get("certainty_temperature", 0.5)
    pairs = list(zip(step["sequences"][::2], step["sequences"][1::2]))
    total, right = 0, 0
    for pair in pairs:
        masked = [{row + 1 if shifted else row: target for row, target in zip(s["predicted"], s["targets"])}
                  for s in pair]
        active = sorted(masked[0] | masked[1])
        assert not set(masked[0]) & set(masked[1]) and active == list(range(active[0], active[-1] + 1))
        clean, prompt = next((list(tokens), prompt) for tokens, prompt in clean_examples().items()
                             if len(tokens) == len(pair[0]["tokens"])
                             and all(tokens[i] == t for i, t in (masked[0] | masked[1]).items())
                             and list(tokens[:active[0]]) == pair[0]["tokens"][:active[0]])
        first = max(prompt, 1 if shifted else 0)
        if length == 0:
            assert active == list(range(first, len(clean)))
        else:
            assert (active[0] - first) % length == 0 and active[-1] + 1 == min(active[0] + length, len(clean))
        for s, targets in zip(pair, masked):
            assert s["tokens"] == [MASK if i in targets or i > active[-1] else t for i, t in enumerate(clean)]
            n = len(clean)
            logits = logits_of(weights, family, torch.tensor(s["tokens"]), torch.arange(n), attention("full", n))
            rows = {i: logits[i - 1 if shifted else i] for i in targets}
            if targets:
                total = total + sum(cross_entropy(rows[i], t) for i, t in targets.items()) / len(targets)
            sure = [torch.softmax(rows[i] / temperature, -1) for i, t in targets.items() if rows[i].argmax() == t]
            right += len(sure)
            if sure:
                total = total + beta * sum(-(p * p.log()).sum() for p in sure) / len(sure)
    assert right > 3, "too few right predictions to see their entropy"
    return total / len(pairs)


LOSSES = [
    ("llama", {"kind": "next-token"}, False),
    ("qwen2", {"kind": "next-token", "mean": "sequences"}, False),
    ("llada", {"kind": "masked"}, False),
    ("llada", {"kind": "masked", "mean": "sequences", "stratified": True, "never_mask_logit": True}, True),
    ("dream", {"kind": "masked", "weight": "context", "context": 0.3}, False),
    ("dream", {"kind": "masked", "weight": "one", "mean": "masked"}, False),
    ("llada", {"kind": "certainty", "certainty_block": 4}, False),
    ("dream", {"kind": "certainty", "certainty_block": 0, "certainty_weight": 1.5, "certainty_temperature": 0.8,
               "certainty_rate": 0.3}, False),
    ("sdar", {"kind": "block", "mean": "sequences"}, False),
    ("sdar", {"kind": "block", "time_per_block": True, "low": 0.3, "high": 0.8, "never_mask_logit": True}, False),
]


@pytest.mark.parametrize("family,options,tied", LOSSES, ids=lambda v: v if isinstance(v, str) else None)
def test_loss_and_gradients(tmp_path, family, options, tied):
    """One step of plain gradient descent: the loss, and every weight's gradient as what the step took from it."""
    rate = 100.0
    certainty = options["kind"] == "certainty"
    before, trace, log, after = run(tmp_path, family, {"loss": options, "sequences": 48 if certainty else 6,
                                                       "optimiser": {"kind": "sgd", "learning_rate": rate}},
                                    steps=1, tied=tied)
    weights = {k: v.double().requires_grad_() for k, v in before.items()}
    loss = (certainty_loss if certainty else step_loss)(weights, family, trace[0], options)
    loss.backward()
    assert abs(trace[0]["loss"] - loss.item()) <= 1e-5 * abs(loss.item())
    assert log[0]["loss"] == trace[0]["loss"]
    assert set(after) == set(before)
    norm = math.sqrt(sum((w.grad ** 2).sum().item() for w in weights.values()))
    assert abs(log[0]["gradient_norm"] - norm) <= 1e-5 * norm
    for name, w in weights.items():
        got = (before[name].double() - after[name].double()) / rate
        assert w.grad.abs().max() > 1e-5, f"{name} has no gradient to compare"
        error = ((got - w.grad).abs().max() / w.grad.abs().max()).item()
        assert error <= 2e-5, f"{name}: {error}"


def factor(step, steps, warmup, final):
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


@pytest.mark.parametrize("family,options", [("llama", {"kind": "next-token"}), ("llada", {"kind": "masked"}),
                                            ("sdar", {"kind": "block"})], ids=["llama", "llada", "sdar"])
def test_first_steps_of_a_run(tmp_path, family, options):
    """AdamW, warm-up and cosine, clipping, accumulation and the averaged weights, over ten steps."""
    steps, peak, decay, clip, ema = 10, 2e-3, 0.1, 0.5, 0.8
    before, trace, log, after = run(
        tmp_path, family,
        {"loss": options, "sequences": 3, "accumulate": 2, "ema": ema,
         "optimiser": {"learning_rate": peak, "beta1": 0.85, "beta2": 0.95, "weight_decay": decay, "clip": clip},
         "schedule": {"kind": "cosine", "warmup": 3, "final": 0.1}}, steps=steps)
    weights = {k: torch.nn.Parameter(v.clone()) for k, v in before.items()}
    average = {k: v.clone() for k, v in before.items()}
    groups = [{"params": [w for w in weights.values() if w.dim() > 1], "weight_decay": decay},
              {"params": [w for w in weights.values() if w.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.85, 0.95))
    clipped = 0
    for index, step in enumerate(trace):
        assert len(step["sequences"]) == 6
        for group in optimizer.param_groups:
            group["lr"] = peak * factor(index, steps, 3, 0.1)
        optimizer.zero_grad()
        loss = step_loss(weights, family, step, options)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), clip).item()
        clipped += norm > clip
        assert abs(step["loss"] - loss.item()) <= 1e-5 * abs(loss.item()), f"step {index + 1}"
        assert abs(step["gradient_norm"] - norm) <= 1e-4 * norm
        assert abs(log[index]["learning_rate"] - optimizer.param_groups[0]["lr"]) <= 1e-12
        optimizer.step()
        for name, w in weights.items():
            average[name].lerp_(w.detach(), 1 - ema)
    assert clipped > 0
    for name, w in average.items():
        moved = (w - before[name]).abs().max()
        assert moved > 1e-3
        assert (after[name] - w).abs().max() <= 1e-2 * moved, name


def test_a_causal_model_as_a_masked_one(tmp_path):
    """qwen2's tensors go on as Dream's: the same weights under the same names, seen from both sides and shifted."""
    weights = random_weights("qwen2", 5)
    write_folder(tmp_path / "causal", "qwen2", weights)
    options = {"kind": "masked"}
    _, trace, _, after = run(tmp_path, "qwen2",
                             {"model": {"from": str(tmp_path / "causal"), "family": "dream"}, "loss": options,
                              "optimiser": {"learning_rate": 0.0}}, steps=1, seed=5)
    assert all(torch.equal(after[k], v) for k, v in weights.items())  # a learning rate of 0 moves nothing
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["architectures"] == ["DreamModel"] and config["mask_token_id"] == MASK
    loss = step_loss({k: v.double() for k, v in weights.items()}, "dream", trace[0], options)
    assert abs(trace[0]["loss"] - loss.item()) <= 1e-5 * loss.item()


def test_exported_folder_is_read_by_others(tmp_path):
    """transformers reads a trained llama folder, and gives the logits of this file's network; so do its tokens."""
    import transformers

    _, _, _, after = run(tmp_path, "llama", {"loss": {"kind": "next-token"}, "optimiser": {"learning_rate": 1e-3}}, steps=2)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    text = "12+30=42 ab"
    assert tokenizer(text)["input_ids"] == ids(text)
    assert tokenizer.decode(ids(text)) == text
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (END, MASK)
    expected = logits_of({k: v.double() for k, v in after.items()}, "llama", torch.tensor(ids(text)),
                         torch.arange(len(text)), attention("causal", len(text)))
    with torch.no_grad():
        got = model(torch.tensor([ids(text)])).logits[0].double()
    assert (got - expected).abs().max() <= 2e-5 * expected.abs().max()
