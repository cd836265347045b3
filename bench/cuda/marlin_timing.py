"""Times of the MARLIN kernel and of torch's half-precision product, beside the roofs that the same GPU shows."""

import statistics
from typing import NamedTuple

import torch

from marlin_library import LAST, NARROW, OK, SHARED, WIDE, Options, Weights

# (k, n): squares, layers of Llama-2-7B as the paper fuses them, and of Llama-3-70B.
SHAPES = [(4096, 4096), (8192, 8192), (4096, 12288), (4096, 21504), (10752, 4096), (8192, 28672), (28672, 8192)]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
GROUP = 128


class NotStarted(RuntimeError):
    """A product that the kernel refuses."""


class Row(NamedTuple):
    k: int
    n: int
    m: int
    half_us: float
    four_bit_us: float
    again_us: float     # the same measurement at the end of all
    roof_us: float      # the longer of the bytes at copy bandwidth and the operations at the half-precision peak
    bound: str

    @property
    def gigabytes(self):
        return moved(self.m, self.k, self.n) / self.four_bit_us / 1e3

    @property
    def teraflops(self):
        return 2 * self.m * self.k * self.n / self.four_bit_us / 1e6


def moved(m, k, n):
    """Bytes that a product of four-bit weights must move: codes, scales, activations, outputs."""
    return k * n // 2 + k * n // GROUP * 2 + 2 * m * (k + n)


class Clock:
    """Microseconds of a launch, from graphs of launches that take their weights in turn."""

    def __init__(self, device, launches=24, replays=15, warm_up=3):
        self.device, self.launches, self.replays, self.warm_up = device, launches, replays, warm_up

    def microseconds(self, launches):
        """The median over replays of a graph that runs all `launches` in turn, of one of them."""
        launches = launches * -(-self.launches // len(launches))
        graph = self.captured(launches)
        times = []
        for replay in range(self.warm_up + self.replays):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if replay >= self.warm_up:
                times.append(begin.elapsed_time(end) * 1e3 / len(launches))
        return statistics.median(times)

    def captured(self, launches):
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            launches[0]()  # what the first call loads or tunes is no part of the graph
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()  # not torch.cuda.graph(), which collects garbage and empties caches each time
            graph.capture_begin(capture_error_mode="relaxed")
            for launch in launches:
                launch()
            graph.capture_end()
        torch.cuda.synchronize()
        return graph


class Bench:
    def __init__(self, marlin, clock, cache_bytes, shapes=SHAPES, rows=ROWS):
        self.marlin, self.clock, self.device = marlin, clock, marlin.device
        self.cache_bytes, self.shapes, self.rows = cache_bytes, shapes, rows
        self.draws = torch.Generator(self.device).manual_seed(15)

    def halfs(self, *shape):
        return torch.randn(shape, generator=self.draws, device=self.device, dtype=torch.float16)

    def sets(self, size):
        """How many sets of weights are more than twice the cache."""
        return 2 * self.cache_bytes // size + 2

    # --- roofs ---

    def copy_bandwidth(self, size=2 ** 30):
        """Bytes read and written a second by a copy of 1 GiB."""
        source = torch.randint(-2 ** 31, 2 ** 31 - 1, (size // 4,), generator=self.draws, device=self.device,
                               dtype=torch.int32)
        target = torch.empty_like(source)
        return 2 * size / self.clock.microseconds([lambda: target.copy_(source)]) * 1e6

    def half_peak(self, side=8192):
        """Operations a second of torch's half-precision product of squares."""
        a, b = self.halfs(side, side), self.halfs(side, side)
        c = torch.empty_like(a)
        return 2 * side ** 3 / self.clock.microseconds([lambda: torch.matmul(a, b, out=c)]) * 1e6

    # --- products ---

    def weights(self, k, n):
        """Sets of four-bit weights: any words are codes of some layer."""
        size = k * n // 2 + k * n // GROUP * 2
        for _ in range(self.sets(size)):
            words = torch.randint(-2 ** 31, 2 ** 31 - 1, (k // 16, 2 * n), generator=self.draws, device=self.device,
                                  dtype=torch.int32)
            scales = torch.rand((k // GROUP, n), generator=self.draws, device=self.device).half() / 64
            yield Weights(k, n, GROUP, words, scales)

    def four_bit(self, m, weights, options=Options()):
        a = self.halfs(m, weights[0].k)
        c = torch.empty((m, weights[0].n), dtype=torch.float16, device=self.device)
        sums, locks = self.marlin.make_workspace(m, weights[0], options)

        def launch(one):
            status = self.marlin.matmul(a, one, c, sums, locks, options)
            if status != OK:
                raise NotStarted(f"status {status} of {m} x {one.k} x {one.n}, {options}")
        return self.clock.microseconds([lambda one=one: launch(one) for one in weights])

    def half(self, m, k, n, weights):
        """The faster of torch's products with weights [k][n] and, as a layer keeps them, [n][k]."""
        a = self.halfs(m, k)
        c = torch.empty((m, n), dtype=torch.float16, device=self.device)
        plain = [lambda w=w: torch.matmul(a, w.view(k, n), out=c) for w in weights]
        turned = [lambda w=w: torch.matmul(a, w.view(n, k).t(), out=c) for w in weights]
        return min(self.clock.microseconds(plain), self.clock.microseconds(turned))

    def table(self, bandwidth, peak):
        """Rows of all shapes; halves of one shape at a time are in memory, four-bit weights stay for another round."""
        four_bit = {}
        first = {}
        halfs = {}
        for k, n in self.shapes:
            four_bit[k, n] = list(self.weights(k, n))
            for m in self.rows:
                first[k, n, m] = self.four_bit(m, four_bit[k, n])
            wide = [self.halfs(k, n) for _ in range(self.sets(2 * k * n))]
            for m in self.rows:
                halfs[k, n, m] = self.half(m, k, n, wide)
            del wide
        rows = []
        for (k, n, m), time in first.items():
            bytes_us, operations_us = moved(m, k, n) / bandwidth * 1e6, 2 * m * k * n / peak * 1e6
            rows.append(Row(k, n, m, halfs[k, n, m], time, self.four_bit(m, four_bit[k, n]), max(bytes_us, operations_us),
                            "memory" if bytes_us >= operations_us else "compute"))
        return rows

    def variants(self, shapes, rows):
        """Microseconds by shape, rows and options, None where the GPU has no room: what auto might choose."""
        found = []
        for k, n in shapes:
            weights = list(self.weights(k, n))
            for m in rows:
                tiles = [WIDE, NARROW] if m <= 16 else [WIDE]
                blocks = [1, 2] if m <= 16 else [1]
                for options in (Options(t, b, s, a) for t in tiles for b in blocks for s in (4, 8) for a in (LAST, SHARED)):
                    try:
                        time = self.four_bit(m, weights, options)
                    except NotStarted:
                        time = None
                    found.append(dict(k=k, n=n, m=m, options=str(options), us=time))
        return found
