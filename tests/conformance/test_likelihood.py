"""`tutti eval likelihood` against its definition over the independent network of test_masked_experts: every mask tried in
PyTorch, and the program's samples within their standard error of that."""

import itertools
import json
import math

import pytest
import torch

import program
import test_masked_experts as masked
import tiny_checkpoints

PAIRS = [("ab", "xyz"), ("abcdefg", "pqrst")]
CASES = ["llada-moe", "llada2-two-shared-biased"]  # one seen from both sides, one in blocks of 8


def ids(text):
    return tiny_checkpoints.tiny_tokenizer()[0].encode(text).ids


def pieces(config, prompt, size):
    """What is masked together: [first, end) of answer tokens; the answer behind `end` is not there yet."""
    if not masked.is_llada2(config):
        return [(prompt, size)]
    block = config["block_size"]
    ends = range(block, size + block, block)
    return [(max(prompt, end - block), min(end, size)) for end in ends if min(end, size) > prompt]


def exact(config, weights, prompt, answer):
    """Sum over pieces of the mean over k of (L / k) times the mean loss of k masked tokens."""
    text = ids(prompt) + ids(answer)
    total = 0.0
    for first, end in pieces(config, len(ids(prompt)), len(text)):
        length = end - first
        for k in range(1, length + 1):
            losses = []
            for positions in itertools.combinations(range(first, end), k):
                noisy = [masked.MASK if p in positions else t for p, t in enumerate(text[:end])]
                log_p = torch.log_softmax(torch.tensor(masked.logits_of(config, weights, noisy)), -1)
                losses.append(-sum(log_p[p, text[p]].item() for p in positions))
            total += sum(losses) / len(losses) / k  # 1 / L of L / k
    return total


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return masked.Shelf(tmp_path_factory.mktemp("likelihood"))


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in PAIRS))
    return file


def likelihood(shelf, name, lines, *options):
    return json.loads(program.run("eval", "likelihood", "-m", shelf.folder(name), "-f", lines, *program.EXACT, "--json",
                                  *options))


@pytest.mark.parametrize("name", CASES)
def test_likelihood(name, shelf, lines):
    config = masked.CASES[name][0]
    weights = masked.random_weights(config)
    expected = [exact(config, weights, p, a) for p, a in PAIRS]
    every = likelihood(shelf, name, lines, "--exact")
    for got, want, (_, answer) in zip(every["answers"], expected, PAIRS, strict=True):
        assert abs(got["nll"] - want) <= 1e-5 * want
        assert got["tokens"] == len(answer) and got["standard_error"] == 0
    assert abs(every["nll"] - sum(expected)) <= 1e-5 * sum(expected)
    some = likelihood(shelf, name, lines, "--samples", "1024")
    for got, want in zip(some["answers"], expected, strict=True):
        assert got["standard_error"] < 0.05 * want
        assert abs(got["nll"] - want) <= 4 * got["standard_error"]
    assert some["standard_error"] == pytest.approx(math.hypot(*(a["standard_error"] for a in some["answers"])))


def test_all_masked(shelf, lines):
    """The last row of the table needs no samples: everything is masked."""
    config = masked.CASES["llada-moe"][0]
    weights = masked.random_weights(config)
    expected, tokens = 0.0, 0
    for prompt, answer in PAIRS:
        given, text = len(ids(prompt)), ids(prompt) + ids(answer)
        noisy = text[:given] + [masked.MASK] * (len(text) - given)
        log_p = torch.log_softmax(torch.tensor(masked.logits_of(config, weights, noisy)), -1)
        expected -= sum(log_p[p, text[p]].item() for p in range(given, len(text)))
        tokens += len(text) - given
    row = likelihood(shelf, "llada-moe", lines, "--ratio-masks", "2")["ratios"][-1]
    assert row["ratio"] == 1 and row["masked"] == 2 * tokens
    assert row["nll_per_masked_token"] == pytest.approx(expected / tokens, rel=1e-5)
