"""The CUDA kernel's text over an emulated warp against layers packed here: the script that judges the kernel on a GPU
(bench/cuda/) finds it right, and finds each planted error."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/cuda"))
import marlin  # noqa: E402
import marlin_timing  # noqa: E402
from marlin_check import Checker  # noqa: E402
from marlin_library import Marlin, Options  # noqa: E402


@pytest.fixture(scope="module")
def library():
    folder = Path(os.environ.get("TUTTI_BUILD", ROOT / "build/release"))
    return Marlin(folder / "libmarlin_emulated.so", "cpu")


def test_random_and_exact_layers_are_right(library):
    checker = Checker(library)
    checker.sweep([(128, 256), (192, 512)], [1, 16, 17, 64, 65], [-1, 32, 64], repeats=1)
    checker.partitions([(512, 512)], [1, 40], [1, 3], [4])
    checker.sweep([(64, 256), (128, 256)], [1, 20], [64, 128])  # also one group of all inputs
    checker.race(256, 512, 3, 128, 2)
    assert checker.failures == []
    assert checker.products > 60
    assert 1e-5 < checker.worst[0] < 2.0 ** -11


class Wrong(Marlin):
    """The right product, then a change of what it left."""

    def __init__(self, right, change):
        self.__dict__.update(right.__dict__)
        self.change = change

    def matmul(self, a, weights, c, sums, locks, options=Options(), m=None):
        status = super().matmul(a, weights, c, sums, locks, options, m)
        return self.change(c, sums, locks) or status


def one_element(c, sums, locks):
    c[-1, -1] += 0.25


def unwritten(c, sums, locks):
    c[0, 3] = float("nan")


def all_a_little(c, sums, locks):
    c *= 1.001


def lock(c, sums, locks):
    locks[1] = 3


def beyond_the_sums(c, sums, locks):
    sums[-1] = 0


def now_and_then(c, sums, locks):
    now_and_then.calls += 1
    if now_and_then.calls % 2 == 0:
        c[0, 0] *= 1.0625


@pytest.mark.parametrize("change,message", [(one_element, "1 of 5120 elements differ, the first at [4, 1023]"),
                                            (unwritten, "relative error nan"), (all_a_little, "relative error"),
                                            (lock, "locks are left [1]"), (beyond_the_sums, "outside its sums"),
                                            (now_and_then, "another run gave other bits"),
                                            (lambda *_: 3, "status 3")])
def test_planted_errors_are_found(library, change, message):
    now_and_then.calls = 0
    checker = Checker(Wrong(library, change))
    checker.sweep([(128, 1024)], [5], [32])
    assert any(message in failure for failure in checker.failures), checker.failures


class Counter:
    """Instead of a clock: runs every launch and says that each took ten microseconds."""

    def microseconds(self, launches):
        for launch in launches:
            launch()
        return 10.0


def test_table_has_every_shape_and_the_roofs(library):
    bench = marlin_timing.Bench(library, Counter(), cache_bytes=1000, shapes=[(256, 512), (128, 256)], rows=[1, 20])
    assert bench.copy_bandwidth(2 ** 20) == pytest.approx(2 * 2 ** 20 / 10e-6)
    rows = bench.table(bandwidth=1e9, peak=1e12)
    assert [(r.k, r.n, r.m) for r in rows] == [(256, 512, 1), (256, 512, 20), (128, 256, 1), (128, 256, 20)]
    assert rows[0].roof_us == pytest.approx((256 * 512 / 2 + 2 * 512 * 2 + 2 * (256 + 512)) / 1e9 * 1e6)
    assert rows[0].bound == "memory" and rows[0].half_us == 10.0


def test_page_has_every_size_and_choice(library):
    bench = marlin_timing.Bench(library, Counter(), cache_bytes=1000, shapes=[(256, 512)], rows=[1, 20])
    bench.copy_bandwidth, bench.half_peak = lambda: 1e9, lambda: 1e12
    variants = bench.variants([(256, 512)], [1, 20])
    assert len(variants) == 16 + 4
    variants[0]["us"], variants[1]["us"] = None, 5.0
    machine = dict(date="2026-01-01", gpu="G", capability="9.0", multiprocessors=3, torch="t", cuda="c")
    page = marlin.page(machine, marlin.time_lines(marlin.measure(bench)) + marlin.variant_lines(variants))
    assert "256 x 512 (inputs x outputs)" in page
    assert "    64x256, 1 blocks, 4 stages, last              -        10.0*\n" in page
    assert "    64x256, 1 blocks, 4 stages, shared          5.0*       10.0*\n" in page
    assert "    128x128, 2 blocks, 8 stages, shared        10.0           - \n" in page
