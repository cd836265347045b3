"""Whether the MARLIN kernel is right: products of random layers, packed by the conformance tests' own packer, against
torch's in double precision; outputs and workspaces are poisoned, results must repeat bit by bit."""

import pathlib
import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from marlin_library import LAST, NARROW, NO_KERNEL, OK, SHAPE, SHARED, WIDE, Options, Weights

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/conformance"))
from quantised_layers import marlin_scales, marlin_words  # noqa: E402

# An output rounded to a half is off by at most 2^-11 of itself, so the whole matrix by at most 2^-11 of its norm; rounding
# that falls anywhere makes 0.39 of that, and leaves the rest to sums in fp32.
BOUND = 2.0 ** -11
SPARE = 64  # floats behind the sums that must stay untouched
NAN = float("nan")

SHEET_SHAPES = [(4096, 12288), (4096, 4096), (4096, 21504), (10752, 4096)]  # (k, n): Llama-2-7B's fused layers
SHEET_ROWS = [1, 2, 3, 4, 8, 12, 16, 24, 32, 48, 64, 118, 128, 152, 768, 1024]


class Layer(NamedTuple):
    weights: Weights
    matrix: torch.Tensor  # float64 [k][n]: what the codes and scales stand for
    exact: bool           # whether every sum of `activations` is exact in fp32


class Pool:
    """A packed matrix of random codes whose tiles of 16 x 64 are drawn to make larger ones: the layout keeps each such
    tile in 128 neighbouring words."""

    def __init__(self, device, generator, side=1024):
        codes = generator.integers(0, 16, (side, side))
        words = marlin_words(codes, False)
        self.words = words.reshape(-1, 128).to(device)
        tiles = codes.astype(np.int8).reshape(side // 16, 16, side // 64, 64).transpose(0, 2, 1, 3).reshape(-1, 16, 64)
        self.codes = torch.from_numpy(np.ascontiguousarray(tiles)).to(device)
        self.device, self.generator = device, generator

    def draw(self, k, n):
        """Codes int8 [k][n] and words int32 [k / 16][2 n]."""
        tiles = self.generator.integers(0, len(self.codes), (k // 16, n // 64))
        tiles = torch.from_numpy(tiles).to(self.device)
        return (self.codes[tiles].permute(0, 2, 1, 3).reshape(k, n).contiguous(),
                self.words[tiles].reshape(k // 16, 2 * n).contiguous())

    def layer(self, k, n, group, exact=False):
        codes, words = self.draw(k, n)
        groups = 1 if group == -1 else k // group
        if exact:
            scales = np.exp2(self.generator.integers(-3, 0, (groups, n))).astype(np.float16)
        else:
            scales = (self.generator.uniform(0.5, 1.0, (groups, n)) / 64).astype(np.float16)
        packed = marlin_scales(SimpleNamespace(scales=scales, group=k if group == -1 else group, inputs=k))
        wide = torch.from_numpy(scales).to(self.device).repeat_interleave(k // groups, dim=0)
        if group == -1:  # the scale multiplies the finished sum
            matrix = (codes - 8).double() * wide.double()
        else:  # a weight is a half, as it is in a half-precision layer
            matrix = ((codes - 8).half() * wide).double()
        return Layer(Weights(k, n, group, words, packed.to(self.device)), matrix, exact)


def whole_matrix_is_packed_alike(pool):
    """The packer on a whole matrix against the tiles drawn."""
    codes, words = pool.draw(256, 512)
    if not torch.equal(marlin_words(codes.cpu().numpy().astype(np.int64), False), words.cpu()):
        raise AssertionError("tiles drawn one by one are not those of the matrix packed whole")


class Checker:
    def __init__(self, marlin, seed=15):
        self.marlin, self.device = marlin, marlin.device
        self.generator = np.random.default_rng(seed)
        self.draws = torch.Generator(self.device).manual_seed(seed)
        self.pool = Pool(self.device, self.generator)
        self.products, self.worst, self.failures = 0, (0.0, ""), []
        self.without_room = 0  # products whose blocks wait for each other and did not all fit on this GPU
        whole_matrix_is_packed_alike(self.pool)

    def activations(self, m, layer):
        shape = (m, layer.weights.k)
        if layer.exact:
            return torch.randint(-2, 3, shape, generator=self.draws, device=self.device).half() / 4
        return torch.randn(shape, generator=self.draws, device=self.device).half()

    def fail(self, name, what):
        self.failures.append(f"{name}: {what}")

    def product(self, name, a, layer, options):
        """One product into a poisoned output between two poisoned rows; None when something is wrong."""
        m, n = a.shape[0], layer.weights.n
        guarded = torch.full((m + 2, n), NAN, dtype=torch.float16, device=self.device)
        sums, locks = self.marlin.make_workspace(m, layer.weights, options, SPARE)
        status = self.marlin.matmul(a, layer.weights, guarded[1:-1], sums, locks, options)
        self.marlin.synchronize()
        self.products += 1
        if status == NO_KERNEL and options.adder == SHARED and options.blocks > 1:
            self.without_room += 1
            return None
        if status != OK:
            return self.fail(name, f"status {status}")
        if locks.any():
            return self.fail(name, f"locks are left {locks.nonzero().flatten().tolist()[:8]}")
        if not (guarded[0].isnan().all() and guarded[-1].isnan().all()):
            return self.fail(name, "wrote outside its rows")
        if not sums[len(sums) - SPARE:].isnan().all():
            return self.fail(name, "wrote outside its sums")
        return guarded[1:-1]

    def check(self, layer, m, options=Options(), repeats=1):
        k, n, group = layer.weights[:3]
        name = f"{m} x {k} x {n}, group {group}, {options}{', exact' if layer.exact else ''}"
        a = self.activations(m, layer)
        first = self.product(name, a, layer, options)
        if first is None:
            return
        wanted = a.double() @ layer.matrix
        if layer.exact:
            if not torch.equal(first, wanted.half()):
                wrong = (first != wanted.half()).nonzero()
                self.fail(name, f"{len(wrong)} of {first.numel()} elements differ, the first at {wrong[0].tolist()}: "
                                f"{first[tuple(wrong[0])].item()}, not {wanted[tuple(wrong[0])].item()}")
        else:
            error = ((first.double() - wanted).norm() / wanted.norm()).item()
            self.worst = max(self.worst, (error, name))
            if not error <= BOUND:  # NaN is not
                self.fail(name, f"relative error {error:.3e}, bound {BOUND:.3e}")
        for _ in range(repeats):
            again = self.product(name, a, layer, options)
            if again is not None and not torch.equal(again, first):
                self.fail(name, "another run gave other bits")
        if self.device.type == "cuda":
            with torch.cuda.stream(torch.cuda.Stream()):
                again = self.product(name, a, layer, options)
            if again is not None and not torch.equal(again, first):
                self.fail(name, "another stream gave other bits")

    def options(self, m, k, n):
        yield Options()
        if m <= 16 and k % 128 == 0 and n % 128 == 0:
            yield Options(tile=NARROW)

    def sweep(self, shapes, rows, groups, repeats=1):
        """Random and exact layers of each shape and group, at each number of rows, with both tiles."""
        for k, n in shapes:
            for group in groups:
                if group != -1 and k % group != 0:
                    continue
                for layer in (self.pool.layer(k, n, group), self.pool.layer(k, n, group, exact=True)):
                    for m in rows:
                        for options in self.options(m, k, n):
                            self.check(layer, m, options, repeats)

    def partitions(self, shapes, rows, blocks, stages):
        """Stripes over several slices and slices over several blocks, with every tile and depth."""
        for k, n in shapes:
            layers = [self.pool.layer(k, n, 128), self.pool.layer(k, n, -1, exact=True)]
            for options in (Options(tile, b, s, adder) for tile in (WIDE, NARROW) for b in blocks for s in stages
                            for adder in (LAST, SHARED)):
                for layer, m in ((layer, m) for layer in layers for m in rows):
                    # Blocks that wait for each other must all have room: two of at most 16 rows, else one.
                    fits = options.adder == LAST or options.blocks <= (2 if m <= 16 else 1)
                    if fits and (options.tile == WIDE or m <= 16):
                        self.check(layer, m, options)

    def race(self, k, n, m, group, launches, options=Options()):
        """Launches that follow each other closely, on two streams at the same time, all have the same bits."""
        layer = self.pool.layer(k, n, group)
        name = f"{launches} launches of {m} x {k} x {n}, {options}"
        a = self.activations(m, layer)
        outputs = torch.full((2, launches, m, n), NAN, dtype=torch.float16, device=self.device)
        workspaces = [self.marlin.make_workspace(m, layer.weights, options) for _ in range(2)]
        self.marlin.synchronize()
        streams = [torch.cuda.Stream() for _ in range(2)] if self.device.type == "cuda" else [None, None]
        for launch in range(launches):
            for side, stream in enumerate(streams):
                with torch.cuda.stream(stream):
                    status = self.marlin.matmul(a, layer.weights, outputs[side, launch], *workspaces[side], options)
                if status != OK:
                    return self.fail(name, f"status {status}")
        self.marlin.synchronize()
        self.products += 2 * launches
        other = (outputs.view(torch.int16) != outputs[0, 0].view(torch.int16)).flatten(2).any(2)
        if other.any() or not outputs[0, 0].isfinite().all():
            self.fail(name, f"{int(other.sum())} of {2 * launches} gave other bits than the first")

    def refusals(self):
        """Shapes and options without a kernel are refused, and no rows are no work."""
        layer = self.pool.layer(256, 256, 64)
        a = self.activations(20, layer)
        c = torch.full((20, 256), NAN, dtype=torch.float16, device=self.device)
        sums, locks = self.marlin.make_workspace(20, layer.weights)
        cases = [("rows below none", SHAPE, dict(m=-1)), ("96 inputs", SHAPE, dict(k=96, group=-1)),
                 ("128 outputs in wide tiles", SHAPE, dict(n=128)), ("groups of 16", SHAPE, dict(group=16)),
                 ("groups that do not divide k", SHAPE, dict(group=512)), ("groups of 0", SHAPE, dict(group=0)),
                 ("groups of 48", NO_KERNEL, dict(k=192, group=48)),
                 ("narrow tiles of 192 inputs", SHAPE, dict(k=192, m=16, options=Options(tile=NARROW))),
                 ("narrow tiles of 17 rows", NO_KERNEL, dict(m=17, options=Options(tile=NARROW))),
                 ("5 stages", NO_KERNEL, dict(options=Options(stages=5))),
                 ("an unknown tile", NO_KERNEL, dict(options=Options(tile=3))),
                 ("more blocks than have room, that wait", NO_KERNEL, dict(options=Options(blocks=9, adder=SHARED))),
                 ("blocks below none", NO_KERNEL, dict(options=Options(blocks=-1))), ("no rows", OK, dict(m=0))]
        for name, wanted, changes in cases:
            changes = dict(k=256, n=256, group=64, m=20, options=Options()) | changes
            options, m = changes.pop("options"), changes.pop("m")
            weights = layer.weights._replace(**changes)
            status = self.marlin.matmul(a, weights, c, sums, locks, options, m=m)
            self.marlin.synchronize()
            if status != wanted:
                self.fail(name, f"status {status}, not {wanted}")
            roomy = options.adder != SHARED  # the workspace's size doesn't ask for room
            if roomy and self.marlin.workspace(m, weights.n, weights.k, weights.group, options)[0] != wanted:
                self.fail(name, "the workspace's status is another than the product's")
            if not c.isnan().all():
                self.fail(name, "something was written")


def check_all(marlin, heartbeat, only=None):
    """Everything, for a GPU, or the part named `only`; `heartbeat` is called after each part with its name."""
    checker = Checker(marlin)
    groups = [-1, 32, 64, 128]
    parts = {
        "one of each kernel": lambda: checker.partitions([(4096, 4096)], [16, 32, 48, 64], [0], [4, 8]),
        "refusals": checker.refusals,
        "every number of rows": lambda: checker.sweep([(1024, 768)], [*range(1, 66), 127, 512], groups, repeats=0),
        "small shapes": lambda: checker.sweep([(64, 256), (128, 256), (192, 256), (192, 768), (256, 512), (384, 256)],
                                              [1, 7, 16, 17, 33, 64, 65], [*groups, 384]),
        "partitions": lambda: checker.partitions([(2048, 1024), (384, 49152), (1024, 12288), (16384, 256)],
                                                 [1, 16, 33, 64, 130], [1, 2, 3], [4, 8]),
        "shapes of the sheet": lambda: checker.sweep(SHEET_SHAPES, SHEET_ROWS, [-1, 128], repeats=0),
        "races": lambda: [checker.race(*sizes) for sizes in [
            (4096, 4096, 1, 128, 300), (4096, 4096, 16, 128, 300), (1024, 12288, 64, -1, 100),
            (4096, 1024, 16, 128, 300, Options(tile=NARROW)), (4096, 4096, 16, 128, 300, Options(adder=SHARED)),
            (4096, 4096, 64, 128, 100, Options(adder=SHARED))]],
    }
    if only is not None:
        if only not in parts:
            raise SystemExit(f"bench/cuda/marlin.py: no part '{only}'; there are {', '.join(parts)}")
        parts = {only: parts[only]}
    for name, part in parts.items():
        part()
        heartbeat(name, checker)
    return checker
