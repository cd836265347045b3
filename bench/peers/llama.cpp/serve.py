"""Puts the same load on `tutti serve` and on llama-server in turns (A B A B …), and writes a dated table and plot.

The client is `tutti bench serve`: closed loops of so many clients, chats with prompts drawn from a seed that differs by
round and level, answers of drawn lengths that no end token cuts, streams, greedy. Ours is asked twice: with "method": "plain", and with
"auto", its default. Before the rounds of a level the peer
tries its flags and keeps the best. After them "plain", "auto" and "plain" again go on without it, in every order in turn:
what auto differs by is less than what two measurements of plain do. Levels are kept in the JSON file as they are measured, so that a study may be run in
pieces (--clients 1, then --clients 4 …); the table and the plot are written anew from all of them.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from compare import MODELS, PEER, ROOT, Machine, Peer, find_model, in_words, spread

KV_FLAGS = {"f16": ["-ctk", "f16", "-ctv", "f16"], "i8": ["-ctk", "q8_0", "-ctv", "q8_0"]}
FLAGS = {  # tried at each level; a quantised V cache needs flash attention
    "f16": [["-fa", "on", "-kvu"], ["-fa", "on", "-no-kvu"], ["-fa", "on", "-no-kvu", "-cram", "0"],
            ["-fa", "off", "-no-kvu", "-cram", "0"]],
    "i8": [["-fa", "on", "-kvu"], ["-fa", "on", "-no-kvu"], ["-fa", "on", "-no-kvu", "-cram", "0"]],
}
SIDES = {"Tutti, plain": ("ours", "#0072b2"), "Tutti, auto": ("auto", "#009e73"), "llama-server": ("peer", "#d55e00")}
SLOT = 512  # tokens of the peer's context for each client: the longest prompt, its template and answer fit


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """One of the two programs, listening; it is ended with the `with`."""

    def __init__(self, command, port, log):
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=subprocess.STDOUT)
        self.log = log
        for _ in range(600):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(self.url + "/health", timeout=5).status == 200:
                    return
            time.sleep(0.1)
        self.process.kill()
        log.seek(0)
        sys.exit(f"serve: {' '.join(map(str, command))} does not listen\n{log.read()[-2000:].decode(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Study:
    def __init__(self, options, model):
        self.options, self.model = options, model
        self.taken = []  # by other processes, in cores, of each measurement

    def ours(self):
        port = free_port()
        return Server([self.options.program, "serve", "-m", self.model, "-t", self.options.threads, "--kv",
                       self.options.kv, "--port", port, "-q"], port, tempfile.TemporaryFile())

    def peer(self, clients, flags):
        port = free_port()
        threads = self.options.threads
        return Server([PEER / "build" / "bin" / "llama-server", "-m", self.model, "-t", threads, "-tb", threads, "-np",
                       clients, "-c", clients * SLOT, *KV_FLAGS[self.options.kv], *flags, "--port", port],
                      port, tempfile.TemporaryFile())

    def measure(self, server, clients, requests, seed, goals=(1e3, 1e3), lone=1, method=None, salt=None):
        command = [self.options.program, "bench", "serve", server.url, "--clients", clients, "--requests", requests,
                   "--prompt-tokens", self.options.prompt_tokens, "--output-tokens", self.options.output_tokens,
                   "--lone", lone, "--seed", seed, "--slo-ttft", goals[0], "--slo-tpot", goals[1], "--json", "-q",
                   # What one of ours has computed of a prompt is not the other's.
                   *(["--extra", json.dumps({"method": method, "cache_salt": salt or method})] if method else [])]
        busy, own, start = Machine.busy(), cpu_of(server.process.pid) + self.children(), time.monotonic()
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        wall = time.monotonic() - start
        if done.returncode != 0:
            sys.exit(f"serve: {done.stderr[-1000:]}")
        used = cpu_of(server.process.pid) + self.children() - own
        self.taken.append(max(0.0, Machine.busy() - busy - used) / wall)
        answer = json.loads(done.stdout)
        level = answer["levels"][0]
        if level["completed"] != requests:
            sys.exit(f"serve: {level['failures']} at {server.url}")
        return {**{key: level[key] for key in ("output_tok_s", "good_requests_s", "requests_s", "prompt_tokens",
                                               "cached_tokens", "output_tokens", "client_cpu_percent")},
                **{f"{name}_{q}": level[f"{name}_ms"][q] for name in ("ttft", "itl", "tpot") for q in ("median", "p99")},
                "lone_ttft": answer["lone"]["ttft_ms"]["median"], "lone_tpot": answer["lone"]["tpot_ms"]["median"]}

    @staticmethod
    def ticks(server) -> int:
        text = urllib.request.urlopen(server.url + "/metrics", timeout=20).read().decode()
        return int(re.search(r"^tutti:ticks_total\S* (\d+)", text, re.M)[1])

    def pairs(self, clients, requests):
        """Plain, auto and plain again on the same requests, in another order each time, each with the ticks that it took.
        What the two plain runs differ by is what the machine alone does."""
        found = []
        runs = [("plain", "plain"), ("auto", "auto"), ("again", "plain")]
        orders = list(itertools.permutations(runs))
        with self.ours() as server:
            for run, method in runs:
                self.measure(server, clients, clients, 66, method=method, salt=run)
            for turn in range(self.options.pairs):
                pair = {}
                for run, method in orders[turn % len(orders)]:
                    before = self.ticks(server)
                    speed = self.measure(server, clients, requests, 2000 * clients + turn, method=method, salt=run)["output_tok_s"]
                    pair[run] = [speed, self.ticks(server) - before]
                found.append(pair)
        return found

    @staticmethod
    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def goals(self):
        """Seconds of TTFT and TPOT that count as good on both sides: 5 and 2 times the peer's for a lone client."""
        with self.peer(1, FLAGS[self.options.kv][0]) as server:
            self.measure(server, 1, 2, 77)
            lone = self.measure(server, 1, 2, 78, lone=4)
        return 5e-3 * lone["lone_ttft"], 2e-3 * lone["lone_tpot"]

    def level(self, clients, goals, say):
        requests = max(32 if clients > 1 else 8, 2 * clients)
        tried = []
        for flags in FLAGS[self.options.kv]:
            with self.peer(clients, flags) as server:
                tried.append((self.measure(server, clients, max(clients, 4), 55)["output_tok_s"], flags))
        speed, flags = max(tried)
        say(f"serve: {clients} clients: the peer is best with {' '.join(flags)} ({speed:.0f} tok/s)")
        rounds = {side: [] for side, _ in SIDES.values()}
        with self.ours() as ours, self.peer(clients, flags) as peer:
            sides = (("ours", ours, "plain"), ("auto", ours, "auto"), ("peer", peer, None))
            for _, server, method in sides:
                self.measure(server, clients, clients, 66, method=method)  # warm-up: threads, pages, measured costs
            for turn in range(self.options.rounds):
                # Ours take turns in going first: who follows the peer finds other caches and clocks.
                for name, server, method in (sides if turn % 2 == 0 else (sides[1], sides[0], sides[2])):
                    rounds[name].append(self.measure(server, clients, requests, 1000 * clients + turn, goals, method=method))
                    time.sleep(0.3)  # the other's threads have gone to sleep
                last = [rounds[name][-1] for name, *_ in sides]
                for key in ("prompt_tokens", "output_tokens"):
                    if len({m[key] for m in last}) > 1:
                        sys.exit(f"serve: {key} differ: {[m[key] for m in last]}; this is no comparison")
                say(f"serve: {clients} clients, round {turn + 1}: " + ", ".join(f"{m['output_tok_s']:.0f}" for m in last) + " tok/s")
        pairs = self.pairs(clients, requests)
        say(f"serve: {clients} clients, auto to plain in {len(pairs)} pairs: {duel(pairs, 0)}, plain again: {duel(pairs, 0, 'again')}")
        return {"clients": clients, "requests": requests, "pairs": pairs, "peer_flags": ["-np", str(clients), "-c", str(clients * SLOT), *flags],
                "peer_flags_tried": [{"flags": " ".join(f), "output_tok_s": s} for s, f in tried], **rounds}


def column(level, side, key):
    return [r[key] for r in level[side]]


def ratio(level, side, other="peer") -> str:
    ratios = [a / b for a, b in zip(column(level, side, "output_tok_s"), column(level, other, "output_tok_s"))]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def duel(pairs, what, run="auto") -> str:
    """Of speeds (0) or ticks (1), to plain's."""
    ratios = [pair[run][what] / pair["plain"][what] for pair in pairs]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–"


def table(levels) -> list[str]:
    lines = ["| clients | requests | plain tok/s | auto tok/s | llama-server tok/s | ratio, plain | ratio, auto | "
             "auto to plain | in pairs | plain again | ticks | TTFT p99 ms | ITL p99 ms | TPOT median ms | good/s | client's CPU | peer's flags |", "|" + "---|" * 17]
    for level in levels:
        all_of = lambda key, form="{:.0f}": " / ".join(  # noqa: E731
            form.format(statistics.median(column(level, side, key))) for side, _ in SIDES.values())
        speeds = " | ".join(spread(column(level, side, "output_tok_s")) for side, _ in SIDES.values())
        lines.append(
            f"| {level['clients']} | {level['requests']} | {speeds} | {ratio(level, 'ours')} | {ratio(level, 'auto')} | "
            f"{ratio(level, 'auto', 'ours')} | {duel(level['pairs'], 0)} | {duel(level['pairs'], 0, 'again')} | {duel(level['pairs'], 1)} | {all_of('ttft_p99')} | {all_of('itl_p99', '{:.1f}')} | {all_of('tpot_median', '{:.1f}')} | "
            f"{all_of('good_requests_s', '{:.2f}')} | {all_of('client_cpu_percent', '{:.1f} %')} | "
            f"`{' '.join(level['peer_flags'])}` |")
    return lines


def plot(levels, title) -> str:
    """Tokens per second by clients, as SVG."""
    width, height, left, right, top, bottom = 640, 360, 60, 130, 40, 50
    most = max(statistics.median(column(level, side, "output_tok_s")) for level in levels for side, _ in SIDES.values())
    step = next(s * 10 ** e for e in range(7) for s in (1, 2, 5) if s * 10 ** e * 6 >= most)
    roof = -(-most // step) * step
    x = lambda i: left + (width - left - right) * (i / max(1, len(levels) - 1))  # noqa: E731
    y = lambda v: height - bottom - (height - top - bottom) * v / roof  # noqa: E731
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="#ffffff"/>', f'<text x="{left}" y="24" font-size="16">{title}</text>']
    for k in range(int(roof / step) + 1):
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(k * step):.1f}" y2="{y(k * step):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(k * step) + 4:.1f}" text-anchor="end">{k * step:g}</text>')
    out += [f'<text x="{x(i):.1f}" y="{height - bottom + 20}" text-anchor="middle">{level["clients"]}</text>'
            for i, level in enumerate(levels)]
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">clients</text>')
    for k, (name, (side, colour)) in enumerate(SIDES.items()):
        points = [(x(i), statistics.median(column(level, side, "output_tok_s")), level) for i, level in enumerate(levels)]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                   + " ".join(f"{px:.1f},{y(v):.1f}" for px, v, _ in points) + '"/>')
        for px, v, level in points:
            rounds = column(level, side, "output_tok_s")
            out.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(min(rounds)):.1f}" y2="{y(max(rounds)):.1f}" stroke="{colour}"/>'
                       f'<circle cx="{px:.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>')
        out.append(f'<rect x="{width - right + 10}" y="{top + 20 * k}" width="14" height="4" fill="{colour}"/>'
                   f'<text x="{width - right + 30}" y="{top + 6 + 20 * k}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2", help="a .gguf or %s" % ", ".join(MODELS))
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clients", default="1,4,16,32", help="levels, separated by commas")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=12, help="turns of plain, auto and plain again without the peer, after the rounds; six make every order")
    parser.add_argument("--kv", choices=list(KV_FLAGS), default="f16", help="i8: the peer's are q8_0")
    parser.add_argument("--prompt-tokens", default="32-64")
    parser.add_argument("--output-tokens", default="32-64")
    parser.add_argument("--program", type=Path,
                        default=Path(os.environ.get("TUTTI", ROOT / "build" / "release" / "tutti")))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    model = find_model(options.model)
    if not options.program.exists():
        sys.exit(f"serve: {options.program} is not built; run `make build`")
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731

    slug = re.sub(r"[^a-z0-9]+", "-", Machine.cpu().split("(")[0].lower()).strip("-")
    stem = options.out / (f"{datetime.date.today().isoformat()}-llama-server-"
                          f"{options.model if options.model in MODELS else model.stem}"
                          f"{'' if options.kv == 'f16' else '-kv-' + options.kv}-{slug}")
    header = {
        "cpu": Machine.cpu(), "instructions": Machine.instructions(), "threads": options.threads, "model": model.name,
        "kv": options.kv, "rounds": options.rounds, "pairs": options.pairs, "prompt tokens": options.prompt_tokens + ", and the chat template's",
        "output tokens": options.output_tokens, "peer": Peer.build(),
    }
    path = stem.parent / (stem.name + ".json")
    document = json.loads(path.read_text()) if path.exists() else {}
    if document and document["header"] != header:
        sys.exit(f"serve: {path} was made with other options; move it away")
    study = Study(options, model)
    if not document:
        document = {"header": header, "goals": study.goals(), "taken": [], "levels": []}
        say("serve: good is a first token within {:.3f} s and {:.4f} s a token".format(*document["goals"]))
    for clients in map(int, options.clients.split(",")):
        level = study.level(clients, document["goals"], say)
        document["levels"] = sorted([*(l for l in document["levels"] if l["clients"] != clients), level],
                                    key=lambda l: l["clients"])
        document["taken"] += study.taken
        study.taken = []
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
    taken = document["taken"]
    ttft, tpot = document["goals"]
    lines = ["# `tutti serve` beside llama-server", "",
             "Made by `make bench-serve`. Closed loops, streams, greedy; rounds interleaved A B A B with the same requests; cells "
             "are median (least–most) or plain / auto / llama-server, medians of the rounds' values; the ratio is the median of the "
             f"rounds' ratios; pairs: plain, auto and plain again without the peer, the same requests, in turns: tokens per second and auto's ticks to plain's; what plain again differs by is the machine's doing. Good answers have their first token within {1e3 * ttft:.0f} ms and {1e3 * tpot:.1f} ms a token: "
             "5 and 2 times what the peer needs for a lone client.", "",
             *(f"- {key}: {in_words(value)}" for key, value in header.items()),
             f"- taken by other processes: median {statistics.median(taken):.2f}, most {max(taken):.2f} cores",
             f"- peer's flags tried: {in_words([' '.join(f) for f in FLAGS[options.kv]])}", "", *table(document["levels"]), "",
             f"![tokens per second by clients]({stem.name}.svg)", ""]
    (stem.parent / (stem.name + ".md")).write_text("\n".join(lines))
    (stem.parent / (stem.name + ".svg")).write_text(plot(document["levels"], f"{model.stem}, {options.threads} threads, KV {options.kv}"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
