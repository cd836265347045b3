"""Our speculative methods beside llama.cpp's on the same GGUF, threads and prompts, greedily, one prompt at a time, in
turns (A B A B …). Time is that of decoding on both sides: the peer's own "decoded … tokens in … seconds", ours without the
prompt's. Prompts are bench/prompts.py's. The peer has one process a prompt; ours has one for all, as a server has.

With --draft-model, one of ours, the peer gets the same network with embeddings and a whole head of its own, since it has
no form for less: rows of tokens that the head lacks are zeros."""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import PEER, ROOT, find_model

BIN = PEER / "build" / "bin"
TUTTI = os.environ.get("TUTTI", str(ROOT / "build/release/tutti"))
# Each with the settings that are tried on the first prompts of a set; the best is kept.
PEERS = {
    "llama-lookup": [["--spec-draft-n-max", n] for n in (5, 10, 16)],
    "llama-lookahead": [[]],
    "llama-speculative-simple, n-gram": [["--spec-type", "ngram-simple"], ["--spec-type", "ngram-mod"],
                                         ["--spec-type", "ngram-map-k"]],
    "llama-speculative-simple, draft": [
        ["--spec-type", "draft-simple", "--spec-draft-n-max", n, "--spec-draft-p-min", p]
        for n, p in ((2, 0), (4, 0), (4, 0.5), (8, 0.75))],
}


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"speculative: exit {done.returncode} of {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done


def peer_rate(o, model, name, settings, lines, folder):
    """Tokens a second of decoding, all prompts together."""
    program = BIN / name.split(",")[0]
    tokens, seconds = 0, 0.0
    for line in lines:
        prompt = folder / "prompt.txt"
        prompt.write_text(line["prompt"])
        draft = ["-md", o.peer_draft, "-td", o.threads] if name.endswith("draft") else []
        done = run([program, "-m", model, "-t", o.threads, "-c", 2048, "-n", line["n"], "--temp", 0, "-f", prompt, "-fa",
                    "on", "--no-escape", *draft, *settings])
        count, time = re.search(r"decoded +(\d+) tokens in +([\d.]+) seconds", done.stderr + done.stdout).groups()
        tokens, seconds = tokens + int(count), seconds + float(time)
    return tokens / seconds


def our_rate(o, model, method, lines, folder):
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    name, *options = method.split()
    done = run([TUTTI, "run", "-m", model, "-t", o.threads, "--temp", 0, "-q", "--prompts", prompts, "--parallel", 1,
                "--method", name, *options])
    stats = [json.loads(line)["stats"] for line in done.stdout.splitlines()]
    return sum(s["tokens"] - 1 for s in stats) / sum(s["decode_seconds"] for s in stats)


def whole_draft(model, draft, out):
    """Our draft model (a GGUF) with embeddings and a whole head, and the target's tokenizer, for the peer."""
    import gguf
    import numpy
    target, small = gguf.GGUFReader(model), gguf.GGUFReader(draft)
    floats = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(list(map(int, reversed(t.shape))))
              for t in small.tensors}
    table = next(t for t in target.tensors if t.name == "token_embd.weight")
    table = gguf.quants.dequantize(table.data, table.tensor_type).reshape(list(map(int, reversed(table.shape))))
    tokens = small.fields["llama.draft.head_tokens"].contents()
    head = numpy.zeros((table.shape[0], floats["output.weight"].shape[1]), numpy.float32)
    head[tokens] = floats["output.weight"]
    floats["token_embd.weight"] = table @ floats.pop("token_embd_map.weight").T
    floats["output.weight"] = head
    writer = gguf.GGUFWriter(out, "llama")
    own = lambda name: "draft." in name or name.startswith("GGUF.") or name == "general.architecture"
    for reader, wanted in ((small, lambda n: not n.startswith("tokenizer.")), (target, lambda n: n.startswith("tokenizer."))):
        for name, field in reader.fields.items():
            if own(name) or not wanted(name):
                continue
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None)
    for name, values in floats.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values.astype(numpy.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help='"lookup", "draft -md FILE", …: options of tutti run behind the name')
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--draft-model", type=Path, help="our GGUF; without it the peer drafts without a model only")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompts", type=Path, default=ROOT / "runs/prompts")
    parser.add_argument("--sets", nargs="*", default=["humaneval", "chat", "summarise", "copy"])
    parser.add_argument("--count", type=int, default=20, help="prompts of a set")
    parser.add_argument("--rounds", type=int, default=3)
    o = parser.parse_args()
    model = find_model(o.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        o.peer_draft = folder / "draft.gguf"
        if o.draft_model:
            whole_draft(model, o.draft_model, o.peer_draft)
        print(f"{datetime.date.today()}, {o.threads} threads, {model.name}, greedy, {o.count} prompts a set, {o.rounds} rounds "
              "in turns, decoding in tokens a second: medians (least-most).\n")
        print("| set | " + " | ".join(f"tutti {m.split()[0]}" for m in ["plain", *o.methods]) + " | "
              + " | ".join(n for n in PEERS if o.draft_model or not n.endswith("draft")) + " | our best / their best |")
        print("|---" * (3 + len(o.methods) + len(PEERS) - (not o.draft_model)) + "|")
        for which in o.sets:
            row(o, model, which, folder)


def row(o, model, which, folder):
    lines = [json.loads(line) for line in (o.prompts / f"{which}.jsonl").read_text().splitlines()][:o.count]
    peers = {}
    for name, settings in PEERS.items():
        if o.draft_model or not name.endswith("draft"):
            tried = lines[:4] if len(settings) > 1 else []
            peers[name] = max(settings, key=lambda s: peer_rate(o, model, name, s, tried, folder)) if tried else settings[0]
    ours = {m: [] for m in ["plain", *o.methods]}
    theirs = {name: [] for name in peers}
    for _ in range(o.rounds):
        for method, rates in ours.items():
            rates.append(our_rate(o, model, method, lines, folder))
        for name, rates in theirs.items():
            rates.append(peer_rate(o, model, name, peers[name], lines, folder))
    middle = statistics.median
    cells = [f"{middle(r):.0f} ({min(r):.0f}-{max(r):.0f})" for r in ours.values()]
    cells += [f"{middle(r):.0f} ({min(r):.0f}-{max(r):.0f})" + (f" `{' '.join(map(str, peers[n]))}`" if peers[n] else "")
              for n, r in theirs.items()]
    ratios = [max(r[i] for r in ours.values()) / max(r[i] for r in theirs.values()) for i in range(o.rounds)]
    print(f"| {which} | {' | '.join(cells)} | {middle(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


if __name__ == "__main__":
    main()
