#!/usr/bin/env python3
"""The MARLIN kernel on a GPU (sheet 15): is it right, how fast is it. Needs torch with CUDA, and nvcc or a library of it.

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
    return dict(products=checker.products, without_room=checker.without_room, worst_error=checker.worst[0],
                worst=checker.worst[1], bound=BOUND, failures=checker.failures)


def measure(bench):
    roofs = dict(copy_bytes_a_second=bench.copy_bandwidth(), half_operations_a_second=bench.half_peak())
    rows = bench.table(roofs["copy_bytes_a_second"], roofs["half_operations_a_second"])
    return dict(roofs=roofs, rows=[row._asdict() | dict(gigabytes=row.gigabytes, teraflops=row.teraflops) for row in rows])


def check_lines(checked):
    lines = [f"{checked['products']:,} products checked, {len(checked['failures'])} wrong, {checked['without_room']} without "
             f"room; largest relative error {checked['worst_error']:.2e} (bound {checked['bound']:.2e}) at {checked['worst']}"]
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


def variant_lines(variants):
    """A line for each choice of options, a column for each size; the fastest of a column is marked."""
    sizes = list(dict.fromkeys((v["k"], v["n"], v["m"]) for v in variants))
    times = {(v["options"], v["k"], v["n"], v["m"]): v["us"] for v in variants}
    best = {size: min(v["us"] for v in variants if (v["k"], v["n"], v["m"]) == size and v["us"]) for size in sizes}
    lines = ["", "microseconds by options (blocks a multiprocessor; tiles in shared memory; who adds), * the fastest",
             " " * 36 + "".join(f"{k}x{n}".rjust(12) for k, n, _ in sizes),
             "rows".rjust(36) + "".join(f"{m:12}" for _, _, m in sizes)]
    for options in dict.fromkeys(v["options"] for v in variants):
        row = [(times.get((options, *size)), best[size]) for size in sizes]
        lines.append(options.ljust(36) + "".join(
            f"{time:11.1f}{'*' if time == least else ' '}" if time else "-".rjust(11) + " " for time, least in row))
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
            file.with_name(file.name + ".json").write_text(json.dumps(found, indent=1) + "\n")
            file.with_name(file.name + ".md").write_text(page(machine, lines))

        def tell(more):
            print("\n".join(more), flush=True)
            lines.extend(more)
            save()

        if o.only != "time":
            found["check"] = check(marlin, o.part, started)
            tell(check_lines(found["check"]))
        if o.only != "check":
            bench = Bench(marlin, Clock(marlin.device), machine["cache_bytes"])
            found["time"] = measure(bench)
            tell(["", *time_lines(found["time"])])
            found["variants"] = bench.variants([(4096, 4096), (8192, 8192), (8192, 28672)], [1, 16, 32, 64])
            tell(variant_lines(found["variants"]))
        print(f"{time.time() - started:5.1f} s  done, {file}.md", flush=True)
    sys.exit(1 if found.get("check", {}).get("failures") else 0)


if __name__ == "__main__":
    main()
