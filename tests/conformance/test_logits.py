"""Logits of the program against transformers and against an independent forward pass.

Real weights: SmolLM2-135M-Instruct and Gemma-3-270M as their GGUF files hold them, 4,096 tokens of prose in
windows of 512 (Gemma: two windows unless STUDY=1; its vocabulary makes them long). Random tiny checkpoints:
every family, from safetensors and from GGUF. Memory stays below 6 GiB: logits go by blocks of rows.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import program
import real_models
import tiny_checkpoints
from closeness import Closeness, check_close, check_same_bits
from independent_forward import IndependentForward

STUDY = os.environ.get("STUDY", "") not in ("", "0")
BLOCK = 64  # rows of logits held at once
CONTEXT = real_models.CONTEXT

# ---- real weights ----

REAL_LIMIT = 2e-5
MARGIN_NAT = 1.0  # int8 activations must keep the argmax wherever fp32 prefers it by this much


@dataclass(frozen=True)
class Real:
    name: str
    file: callable
    ids: callable
    bos: int | None
    windows: int
    published_ppl: float  # of 8 windows of GPL-3 in fp32, measured before this program existed

    def __str__(self):
        return self.name

    def window(self, w):
        return real_models.window_inputs(self.ids(), w, self.bos)


REAL = [
    Real("SmolLM2-135M", real_models.smollm2, real_models.smollm2_ids, None, 8, 24.973),
    Real("Gemma-3-270M", real_models.gemma3, real_models.gemma3_ids, 2, 8 if STUDY else 2, 19.863),
]
each_real = pytest.mark.parametrize("real", REAL, ids=str)


@cache
def reference_hidden(real: Real, window: int) -> torch.Tensor:
    return real_models.transformers_hidden(real.file(), real.window(window)[0])


def reference_blocks(real: Real, window: int):
    """(first row, transformers' logits [BLOCK, vocab]) of one window."""
    hidden = reference_hidden(real, window)
    for first in range(0, CONTEXT, BLOCK):
        yield first, real_models.transformers_head(real.file(), hidden[first:first + BLOCK])


def negative_log_likelihood(logits: np.ndarray, targets) -> tuple[float, int]:
    x = torch.from_numpy(np.array(logits)).double()
    scored = [(row, t) for row, t in enumerate(targets) if t >= 0]
    rows = [row for row, _ in scored]
    nll = torch.logsumexp(x[rows], dim=1) - x[rows, [t for _, t in scored]]
    return float(nll.sum()), len(scored)


@cache
def reference_perplexity(real: Real) -> tuple[float, int]:
    nll, count = 0.0, 0
    for window in range(real.windows):
        targets = real.window(window)[1]
        for first, logits in reference_blocks(real, window):
            part, n = negative_log_likelihood(logits, targets[first:first + BLOCK])
            nll, count = nll + part, count + n
    return math.exp(nll / count), count


def vocab(real: Real) -> int:
    return real_models.transformers_model(real.file()).config.vocab_size


@each_real
def test_transformers_is_right_for_the_file(real):
    """The oracle itself: against the independent forward in double precision, on one window."""
    if real.bos is not None and not STUDY:
        pytest.skip("STUDY=1 runs it (a minute)")
    independent = IndependentForward(real.file())
    rows = np.arange(7, CONTEXT, 8)
    hidden = independent.final_hidden(real.window(0)[0])[rows]
    reference = real_models.transformers_head(real.file(), reference_hidden(real, 0)[rows])
    print(check_close(f"{real}: transformers, independent", reference, independent.head(hidden), REAL_LIMIT))


@each_real
def test_reference_perplexity_is_the_known_one(real):
    if real_models.text() != real_models.GPL3 or real.windows != 8:
        pytest.skip("known for 8 windows of Debian's GPL-3 text only")
    assert reference_perplexity(real)[0] == pytest.approx(real.published_ppl, abs=2e-3)


@each_real
def test_real_logits(real, tmp_path):
    closeness = Closeness(REAL_LIMIT, f"{real}, exact-f32")
    for window in range(real.windows):
        out = tmp_path / "logits.f32"
        ours = program.logits(real.file(), real.window(window)[0], vocab(real), out)
        for first, reference in reference_blocks(real, window):
            closeness.add(ours[first:first + BLOCK], reference)
        out.unlink()
    print(closeness)
    closeness.check()


@each_real
def test_text_gives_the_same_logits_as_its_ids(real, tmp_path):
    """`eval logits -f`: windows of text tokens, with BOS in front of each (in place of its last token, which
    predicts nothing inside the window) where the model has one."""
    window = 1
    program.run("eval", "logits", "-m", real.file(), "-f", real_models.text(), "-c", CONTEXT, "--tokens", 2 * CONTEXT,
                "--first-window", window, "--windows", 1, *program.EXACT, "--out", tmp_path / "text.f32")
    from_text = program.read_logits(tmp_path / "text.f32", CONTEXT, vocab(real))
    from_ids = program.logits(real.file(), real.window(window)[0], vocab(real), tmp_path / "ids.f32")
    for first in range(0, CONTEXT, BLOCK):
        check_same_bits(f"{real}, rows from {first}", from_text[first:first + BLOCK], from_ids[first:first + BLOCK])


@each_real
def test_quantised_keeps_the_argmax_where_the_margin_is_large(real, tmp_path):
    windows = real.windows if STUDY else 2
    rows, agreed, largest = 0, 0, 0.0
    for window in range(windows):
        out = tmp_path / "logits.f32"
        ours = program.logits(real.file(), real.window(window)[0], vocab(real), out, options=[])
        for first, reference in reference_blocks(real, window):
            best = reference.argmax(axis=1)
            top = np.partition(reference, -2, axis=1)[:, -2:]
            margin = top[:, 1] - top[:, 0]
            same = np.asarray(ours[first:first + BLOCK]).argmax(axis=1) == best
            rows, agreed = rows + len(best), agreed + int(same.sum())
            largest = max(largest, float(margin[~same].max(initial=0.0)))
        out.unlink()
    print(f"{real}: argmax kept at {agreed} of {rows} positions; largest margin lost {largest:.3f} nat")
    assert largest < MARGIN_NAT, f"{real}: the argmax was lost where fp32 prefers it by {largest:.3f} nat"
    assert agreed > 0.9 * rows, f"{real}: argmax kept at only {agreed} of {rows} positions"


@each_real
@pytest.mark.parametrize("options,limit", [
    ([], 1e-2),
    (program.EXACT, 1e-4),
    (["--arithmetic", "bf16-dot"], 2e-3),
    (["--arithmetic", "w8a8-row"], 8e-2),
], ids=["default", "exact", "bf16-dot", "w8a8-row"])
def test_perplexity(real, options, limit):
    answer = json.loads(program.run(
        "eval", "perplexity", "-m", real.file(), "-f", real_models.text(), "-c", CONTEXT,
        "--tokens", real.windows * CONTEXT, "--json", *options))
    reference, scored = reference_perplexity(real)
    print(f"{real}: perplexity {answer['ppl']:.4f}, transformers fp32 {reference:.4f}")
    assert answer["tokens"] == scored
    assert answer["ppl"] == pytest.approx(math.exp(answer["nll"] / answer["tokens"]), rel=1e-6)
    assert answer["ppl"] == pytest.approx(reference, rel=limit)


# ---- random tiny checkpoints ----

TINY_LIMIT = 1e-5
IDS = [int(i) for i in np.random.default_rng(5).integers(0, tiny_checkpoints.VOCAB, 96)]
FAMILIES = tiny_checkpoints.FAMILIES
IN_GGUF = [f for f in FAMILIES if f.gguf_arch]


def each(families):
    return pytest.mark.parametrize("family", families, ids=str)


class Shelf:
    """Checkpoints and their reference logits, made when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.references = {}

    def checkpoint(self, family) -> Path:
        folder = self.folder / family.name
        if not folder.exists():
            tiny_checkpoints.write_folder(family, tiny_checkpoints.make_model(family), folder)
        return folder

    def gguf(self, family) -> Path:
        file = self.folder / f"{family.name}.gguf"
        if not file.exists():
            tiny_checkpoints.write_gguf(family, self.checkpoint(family), file)
        return file

    def reference(self, family) -> np.ndarray:
        if family.name not in self.references:
            self.references[family.name] = tiny_checkpoints.reference_logits(self.checkpoint(family), IDS)
        return self.references[family.name]

    def ours(self, model: Path, ids=IDS) -> np.ndarray:
        """The program's logits, exact-f32, in memory."""
        out = self.folder / "logits.f32"
        logits = np.array(program.logits(model, ids, tiny_checkpoints.VOCAB, out))
        out.unlink()
        return logits


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("tiny"))


@each([f for f in FAMILIES if f.without])
def test_what_the_case_is_about_matters(family, shelf):
    """Else a program that ignores it would pass."""
    without = tiny_checkpoints.reference_logits(shelf.checkpoint(family), IDS, **family.without)
    assert np.abs(without - shelf.reference(family)).max() > 0.1


@each(IN_GGUF)
def test_oracles_agree(family, shelf):
    independent = IndependentForward(shelf.gguf(family)).logits(IDS)
    check_close(f"{family}: transformers, independent", shelf.reference(family), independent, TINY_LIMIT)


@each(FAMILIES)
def test_safetensors(family, shelf):
    check_close(str(family), shelf.ours(shelf.checkpoint(family)), shelf.reference(family), TINY_LIMIT)


@each(FAMILIES)
def test_published_form_of_the_config(family, shelf, tmp_path):
    folder = shutil.copytree(shelf.checkpoint(family), tmp_path / family.name)
    tiny_checkpoints.classic_config(folder)
    check_same_bits(str(family), shelf.ours(folder), shelf.ours(shelf.checkpoint(family)))


@each(IN_GGUF)
def test_gguf_is_the_same_model(family, shelf):
    """GGUF of arch llama holds Q/K rows permuted for interleaved rotary, safetensors does not: same bits."""
    from_gguf = shelf.ours(shelf.gguf(family))
    if family.gguf_same_bits:
        check_same_bits(f"{family}: GGUF, safetensors", from_gguf, shelf.ours(shelf.checkpoint(family)))
    else:
        check_close(f"{family}: GGUF", from_gguf, shelf.reference(family), TINY_LIMIT)


@each([f for f in FAMILIES if f.name in ("mixtral", "qwen2-moe", "qwen3-moe")])
def test_tied_experts_go_to_the_lower_index(family, shelf, tmp_path):
    """All router rows alike: the first experts are chosen, at every token."""
    folder = shutil.copytree(shelf.checkpoint(family), tmp_path / family.name)
    file = folder / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    for name, router in tensors.items():
        if name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight")):
            for twin in range(1, router.shape[0]):
                router[twin] = router[0]
    save_file(tensors, file, metadata={"format": "pt"})
    tied = tiny_checkpoints.write_gguf(family, folder, tmp_path / "tied.gguf")
    independent = IndependentForward(tied).logits(IDS)
    check_close(f"{family}, tied: safetensors", shelf.ours(folder), independent, TINY_LIMIT)
    check_close(f"{family}, tied: GGUF", shelf.ours(tied), independent, TINY_LIMIT)
