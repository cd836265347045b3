"""Products of 4-bit and 8-bit weights by rows: ours beside ggml's, repacked where ggml knows how.

Both multiply as many matrices in turn as make --megabytes, with the same threads, round by round one after the other;
a cell is the median over rounds, the ratio the median of the rounds' ratios (above 1: ours is faster).
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare import Machine, PEER, Peer, ROOT  # noqa: E402


def ours(options, kind, shape):
    answer = json.loads(subprocess.run(
        [str(options.program), "bench", "matmul", "--type", kind, "--shape", shape, "--rows", options.rows,
         "--megabytes", str(options.megabytes), "--repeats", str(options.repeats), "-t", str(options.threads), "-q",
         "--json"], capture_output=True, text=True, check=True).stdout)
    points = answer["shapes"][0]["results"]
    return {p["rows"]: (1e-6 * p["microseconds"], p["roof_fraction"]) for p in points}


def peers(options, kind, shape):
    out, inner = shape.split("x")
    lines = subprocess.run(
        [str(PEER / "build" / "bin" / "matmul"), kind.lower(), out, inner, str(options.threads), str(options.megabytes),
         str(options.repeats), *options.rows.split(",")], capture_output=True, text=True, check=True).stdout
    answer = {}
    for line in lines.splitlines():
        rows, seconds, buffer = line.split()
        answer[int(rows)] = (float(seconds), buffer)
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", default="Q4_0,Q8_0")
    parser.add_argument("--shape", default="1536x576,576x1536,2048x640,4096x4096", help="OUTxIN, separated by commas")
    parser.add_argument("--rows", default="1,4,8,16,32")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--program", type=Path,
                        default=Path(os.environ.get("TUTTI", ROOT / "build" / "release" / "tutti")))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    lines = ["# Products beside ggml's", "",
             f"- date: {datetime.date.today().isoformat()}", f"- cpu: {Machine.cpu()}",
             f"- instructions: {Machine.instructions()}", f"- threads: {options.threads}", f"- peer: {Peer.build()}",
             f"- weights taken in turn: {options.megabytes} MiB; rounds {options.rounds}, interleaved, the rows' "
             "quantisation in both; of roof: the greater of bytes at the measured bandwidth and multiply-adds at the "
             "arithmetic's speed from registers", "",
             "| type | shape | rows | Tutti GMAC/s | of roof | ggml GMAC/s | ggml's buffer | ratio |",
             "|---|---|---|---|---|---|---|---|"]
    for kind in options.type.split(","):
        for shape in options.shape.split(","):
            rounds = [(ours(options, kind, shape), peers(options, kind, shape)) for _ in range(options.rounds)]
            macs = float(shape.split("x")[0]) * float(shape.split("x")[1]) / 1e9
            for rows in map(int, options.rows.split(",")):
                mine = statistics.median(a[rows][0] for a, _ in rounds)
                roof = statistics.median(a[rows][1] for a, _ in rounds)
                theirs = statistics.median(b[rows][0] for _, b in rounds)
                ratios = [b[rows][0] / a[rows][0] for a, b in rounds]
                lines.append(f"| {kind} | {shape} | {rows} | {macs * rows / mine:.1f} | {100 * roof:.0f} % "
                             f"| {macs * rows / theirs:.1f} | {rounds[0][1][rows][1]} "
                             f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |")
                print(lines[-1], flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", Machine.cpu().split("(")[0].lower()).strip("-")
    path = options.out / f"{datetime.date.today().isoformat()}-matmul-llama.cpp-{slug}.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
