#!/usr/bin/env python3
"""The MARLIN kernel on a GPU (sheet 15): is it right, how fast is it. Needs torch with CUDA, and nvcc unless a library is given.

    python3 bench/cuda/marlin.py --out FOLDER [--library build/cuda/libtutti_marlin.so] [--only check|time] [--part NAME]

Checks products of random layers against double precision (marlin_check.py), then times them beside torch's (cuBLAS)
half-precision products on weights that no cache holds (marlin_timing.py). Writes DATE-marlin-GPU.md and .json to FOLDER,
prints the same, and exits with 1 when a product was wrong. About a minute.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

import torch

from marlin_check import BOUND, check_all
from marlin_library import Marlin, build
from marlin_timing import GROUP, Bench, Clock


def described(o):
    """The GPU and what it runs, for the head of a table."""
    properties = torch.cuda.get_device_properties(0)
    return dict(date=time.strftime("%Y-%m-%d"), gpu=properties.name, capability=f"{properties.major}.{properties.minor}",
                multiprocessors=properties.multi_processor_count, cache_bytes=properties.L2_cache_size,
                torch=torch.__version__, cuda=torch.version.cuda, library=str(o.library or "built by nvcc here"))


def check(marlin, part, started):
    def heartbeat(part, checker):
        print(f"{time.time() - started:5.1f} s  {part}: {checker.products} products so far, {len(checker.failures)} wrong",
              flush=True)
    checker = check_all(marlin, heartbeat, part)
    return dict(products=checker.products, worst_error=checker.worst[0], worst=checker.worst[1], bound=BOUND,
                failures=checker.failures)


def measure(marlin, machine, started):
    bench = Bench(marlin, Clock(marlin.device), machine["cache_bytes"])
    roofs = dict(copy_bytes_a_second=bench.copy_bandwidth(), half_operations_a_second=bench.half_peak())
    rows = bench.table(roofs["copy_bytes_a_second"], roofs["half_operations_a_second"])
    print(f"{time.time() - started:5.1f} s  the table is measured", flush=True)
    variants = bench.variants([(4096, 4096), (8192, 8192), (8192, 28672)], [1, 16, 32, 64])
    print(f"{time.time() - started:5.1f} s  variants are measured", flush=True)
    fields = [row._asdict() | dict(gigabytes=row.gigabytes, teraflops=row.teraflops) for row in rows]
    return dict(roofs=roofs, rows=fields, variants=variants)


def check_lines(checked):
    lines = [f"{checked['products']:,} products checked, {len(checked['failures'])} wrong; largest relative error "
             f"{checked['worst_error']:.2e} (bound {checked['bound']:.2e}) at {checked['worst']}"]
    return lines + [f"  WRONG {failure}" for failure in checked["failures"][:20]]


def time_lines(measured):
    bandwidth = measured["roofs"]["copy_bytes_a_second"]
    peak = measured["roofs"]["half_operations_a_second"]
    lines = [f"copy bandwidth {bandwidth / 1e9:.0f} GB/s; half-precision peak {peak / 1e12:.0f} TFLOP/s (8192 cubed); "
             f"groups of {GROUP}"]
    shape = None
    for row in measured["rows"]:
        if shape != (row["k"], row["n"]):
            shape = row["k"], row["n"]
            lines += ["", f"{row['k']} x {row['n']} (inputs x outputs)",
                      "  rows  fp16 us   int4 us    again      GB/s  TFLOP/s  of roof     bound  speed-up    ideal"]
        four_bit = row["four_bit_us"]
        lines.append(f"{row['m']:6} {row['half_us']:8.1f} {four_bit:9.1f} {row['again_us']:8.1f} {row['gigabytes']:9.0f} "
                     f"{row['teraflops']:8.1f} {row['roof_us'] / four_bit:7.0%} {row['bound']:>9} "
                     f"{row['half_us'] / four_bit:9.2f} {row['half_us'] / row['roof_us']:8.2f}")
    return lines


def variant_lines(measured):
    """Options side by side: a line for a shape and its rows, the fastest marked."""
    lines = ["", "microseconds by tile, blocks a multiprocessor, stages"]
    sizes = dict.fromkeys((v["k"], v["n"], v["m"]) for v in measured["variants"])
    for size in sizes:
        same = [v for v in measured["variants"] if (v["k"], v["n"], v["m"]) == size]
        best = min(v["us"] for v in same)
        lines.append(f"{size[0]} x {size[1]}, {size[2]} rows: " + "; ".join(
            f"{v['options']} {v['us']:.1f}{' *' if v['us'] == best else ''}" for v in same))
    return lines


def page(machine, lines):
    head = (f"# MARLIN beside cuBLAS\n\n{machine['date']}, {machine['gpu']} (compute capability {machine['capability']}, "
            f"{machine['multiprocessors']} multiprocessors), torch {machine['torch']}, CUDA {machine['cuda']}: "
            "`python3 bench/cuda/marlin.py`; weights taken in turn from more than twice the L2 cache, graphs of launches, "
            "medians of 15. fp16: the faster of torch's products with weights [k][n] and [n][k]. of roof: the longer of the "
            "bytes at copy bandwidth and the operations at the half-precision peak, over the time. ideal: the speed-up of "
            "that roof; the paper's kernel has 3.87 at 1-16 rows of large matrices on an A10.\n\n")
    return head + "".join(f"    {line}\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the table and the JSON file")
    parser.add_argument("--library", type=pathlib.Path, help="libtutti_marlin.so; without it nvcc builds one")
    parser.add_argument("--only", choices=("check", "time"))
    parser.add_argument("--part", help="one part of the checks, for example 'one of each kernel' under compute-sanitizer")
    o = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench/cuda/marlin.py: torch sees no GPU")
    started = time.time()
    machine = described(o)
    with tempfile.TemporaryDirectory() as folder:
        library = o.library or build(folder, machine["capability"].replace(".", ""))
        marlin = Marlin(library, "cuda")
        print(f"{time.time() - started:5.1f} s  {machine['gpu']}, {machine['multiprocessors']} multiprocessors, library "
              "is loaded", flush=True)
        found, lines = dict(machine=machine), []
        o.out.mkdir(parents=True, exist_ok=True)
        file = o.out / f"{machine['date']}-marlin-{machine['gpu'].lower().replace(' ', '-')}"

        def save():
            file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
            file.with_suffix(".md").write_text(page(machine, lines))

        if o.only != "time":
            found["check"] = check(marlin, o.part, started)
            lines += check_lines(found["check"])
            save()
        if o.only != "check":
            found["time"] = measure(marlin, machine, started)
            lines += ["", *time_lines(found["time"]), *variant_lines(found["time"])]
            save()
    print("\n".join(lines))
    sys.exit(1 if found.get("check", {}).get("failures") else 0)


if __name__ == "__main__":
    main()
