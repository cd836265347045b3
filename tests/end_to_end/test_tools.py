"""tokenize, inspect, bench, methods, help; and how the program behaves as a process."""

import json
import math
import os
import subprocess
import time
import xml.etree.ElementTree as xml
from collections import Counter

import gguf
import pytest
from gguf_metadata import read_header
from real_models import gemma3, smollm2, text
from user import TUTTI, Terminal, tutti

COMMANDS = ["run", "chat", "bench", "traffic", "eval", "eval perplexity", "inspect", "tokenize", "methods"]


def test_tokenize_forms():
    lines = ["Hello, world!", "", "<|im_start|>user\nhi<|im_end|>", "naïve 😀\0"]
    done = tutti("tokenize", "-m", "smollm2", "--jsonl", input="".join(json.dumps(line) + "\n" for line in lines))
    ids = done.lines()
    assert done.code == 0 and len(ids) == 4 and ids[1] == []
    assert ids[2][0] == 1 and ids[2][-1] == 2  # special tokens of the text are recognised, none is added
    back = tutti("tokenize", "-m", "smollm2", "--jsonl", "--decode", input="".join(json.dumps(i) + "\n" for i in ids))
    assert back.lines()[:3] == lines[:3]
    chat = tutti("tokenize", "-m", "smollm2", "--jsonl", "--chat", input='[{"role": "user", "content": "hi"}]\n').json()
    assert set(chat) == {"prompt", "ids"} and chat["prompt"].endswith("<|im_start|>assistant\n")
    whole = tutti("tokenize", "-m", "smollm2", "--jsonl", input=json.dumps(chat["prompt"]) + "\n").json()
    assert whole == chat["ids"]
    assert tutti("tokenize", "-m", "smollm2", "-p", lines[0], "--json").json() == {"ids": ids[0]}
    table = tutti("tokenize", "-m", "smollm2", input=lines[0]).out.splitlines()
    assert [int(row.split("\t")[0]) for row in table] == ids[0]
    # A sentence of Gemma, by the other kind of tokenizer.
    gemma = tutti("tokenize", "-m", "gemma3-270m", "--jsonl", input='"Hello world"\n').json()
    assert tutti("tokenize", "-m", "gemma3-270m", "--jsonl", "--decode", input=json.dumps(gemma) + "\n").json() == "Hello world"


@pytest.mark.parametrize("options, line, words", [
    ([], "[1]", "no JSON string"),
    ([], "x", "is not JSON"),
    (["--decode"], "\"x\"", "no JSON array of token ids"),
    (["--decode"], "[1.5]", "no JSON array of token ids"),
    (["--decode"], "[4294967297]", "no JSON array of token ids"),
    (["--decode"], "[49152]", "no token 49152"),
    (["--decode"], "[-1]", "no token -1"),
    (["--chat"], "{}", "not an array"),
    (["--chat"], "[1]", "no object"),
])
def test_tokenize_names_bad_lines(options, line, words):
    good = {"--decode": "[1]", "--chat": "[]"}.get(options[0] if options else "", "\"a\"")
    done = tutti("tokenize", "-m", "smollm2", "--jsonl", *options, input=f"{good}\n{line}\n{good}\n")
    assert done.code in (1, 2) and len(done.out.splitlines()) <= 1
    assert "line 2" in done.err or "line 1" in done.err and options == ["--chat"]
    assert words in done.err or options == ["--chat"]


@pytest.mark.parametrize("name, path", [("smollm2", smollm2), ("gemma3-270m", gemma3)])
def test_inspect(name, path):
    expected_metadata, expected = read_header(path())
    document = tutti("inspect", name, "--json", "-c", 4096).json()
    assert {"path", "metadata", "tensors", "plan"} <= set(document) and "problem" not in document
    mine = [(t["name"], t["shape"], t["type"].upper(), t["bytes"]) for t in document["tensors"]]
    kinds = Counter()
    total = 0
    for i, (tensor, shape, number) in enumerate(expected):
        kind = gguf.GGMLQuantizationType(number)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        size = math.prod(shape) // block * block_bytes
        assert mine[i] == (tensor, shape, kind.name.upper(), size)
        kinds[kind.name.upper()] += 1
        total += size
    assert len(mine) == len(expected)
    metadata = document["metadata"]
    assert set(metadata) == set(expected_metadata)
    for key, value in expected_metadata.items():
        if isinstance(value, list):
            assert metadata[key]["count"] == len(value)
            shown, value = metadata[key]["first"], value[:8]
        else:
            shown = metadata[key]
        floats = isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float))
        assert shown == (pytest.approx(value) if floats else value), key
    arch = metadata["general.architecture"]
    plan = document["plan"]
    layers, kv_heads = metadata[f"{arch}.block_count"], metadata[f"{arch}.attention.head_count_kv"]
    assert (plan["layers"], plan["kv_heads"]) == (layers, kv_heads)
    assert plan["weight_bytes"] == total
    per_token = 2 * layers * kv_heads * plan["head_dim"]
    assert plan["kv"]["f16"] == {"bytes_per_token": 2 * per_token, "bytes_per_context": 2 * per_token * 4096}
    assert plan["kv"]["f32"]["bytes_per_token"] == 4 * per_token
    printed = tutti("inspect", "-m", name).out
    for kind, count in kinds.items():
        assert any(line.upper().split()[:3] == [kind, str(count), "TENSORS"] for line in printed.splitlines()), kind
    assert "keys and values, f16" in printed


def test_inspect_a_vocabulary_alone(tmp_path):
    out = tmp_path / "vocab.gguf"
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    document = tutti("inspect", out, "--json").json()
    assert document["plan"] is None and document["problem"] and document["tensors"] == []
    assert "cannot be run" in tutti("inspect", out).out


def test_bench(tmp_path):
    svg = tmp_path / "plot.svg"
    done = tutti("bench", "-m", "smollm2", "-t", 1, "--prompt-rows", "1,16", "--streams", "1,3", "--depth", "0,32",
                 "-n", 2, "--repeats", 1, "--json", "--svg", svg)
    document = done.json()
    assert done.err == "" and document["threads"] == 1 and document["isa"] in ("scalar", "avx2", "avx512")
    assert [p["rows"] for p in document["prompt"]] == [1, 16]
    assert [(d["streams"], d["depth"]) for d in document["decode"]] == [(1, 0), (1, 32), (3, 0), (3, 32)]
    for row in [*document["prompt"], *document["decode"]]:
        assert 0 < row["low"] <= row["tok_s"] <= row["high"]
    root = xml.parse(svg).getroot()
    assert root.tag.endswith("svg")
    words = " ".join(e.text or "" for e in root.iter())
    for word in ("depth 0", "depth 32", "concurrent streams", "tokens per second"):
        assert word in words
    done = tutti("bench", "-m", "smollm2", "--prompt-rows", "8", "--streams", "2", "-n", 2, "--repeats", 1)
    assert done.code == 0 and "prompt rows" in done.out and "streams" in done.out
    refused = tutti("bench", "-m", "smollm2", "--depth", 8190, "--json")
    assert refused.code == 2 and refused.out == "" and "8192" in refused.err


def test_perplexity_form(tmp_path):
    part = tmp_path / "part.txt"
    part.write_bytes(text().read_bytes()[:1500])
    document = tutti("eval", "perplexity", "-m", "smollm2", "-f", part, "-c", 128, "--json").json()
    assert {"nll", "tokens", "ppl"} <= set(document) and document["tokens"] > 200 and 1 < document["ppl"] < 100


def test_methods():
    table = tutti("methods", "--json").json()
    names = [m["name"] for m in table]
    assert {"plain", "beam"} <= set(names) and len(set(names)) == len(names)
    printed = tutti("methods").out
    for method in table:
        assert set(method) == {"name", "source", "needs", "guarantee", "options"}
        assert method["guarantee"] in ("lossless", "lossless in law", "approximate")
        assert method["name"] in printed and method["guarantee"] in printed
        for option in method["options"]:
            assert set(option) == {"name", "default", "help"}
            assert f"-o {option['name']}={option['default']}" in printed
    # The defaults that the table prints are those that are used.
    base = ["run", "-m", "smollm2", "-p", "Hi", "-n", 5, "--method", "beam", "--json"]
    beam = next(m for m in table if m["name"] == "beam")
    given = [word for o in beam["options"] for word in ("-o", f"{o['name']}={o['default']}")]
    assert tutti(*base).json()["ids"] == tutti(*base, *given).json()["ids"]


def test_help_and_version():
    top = tutti("--help")
    assert top.code == 0 and top.err == ""
    for command in COMMANDS:
        done = tutti(*command.split(), "--help")
        assert done.code == 0 and done.err == "" and "Usage: tutti" in done.out
        assert command.split()[0] in top.out
    options = tutti("run", "--help").out
    for option in ("--system", "--top-k INT=0", "--top-p FLOAT=1", "--min-p FLOAT=0", "--typical", "--repeat-penalty",
                   "--presence-penalty", "--frequency-penalty", "--logit-bias", "--stop", "--logprobs", "--seed",
                   "--n-predict INT=256", "--ctx-size", "--threads", "--file", "--ignore-eos", "--samplers",
                   "bias;repetition;presence_frequency;temperature;top_k;top_p;min_p;typical", "--temp,--temperature FLOAT=0"):
        assert option in options, option
    for flag in ("--version", "-V"):
        done = tutti(flag)
        assert done.code == 0 and done.out.split()[0] == "tutti" and done.out.strip()[-1].isdigit()


# ---- the process ----


def maps_of(pid):
    with open(f"/proc/{pid}/maps") as file:
        return file.read()


def expect_no_torch(process):
    maps = maps_of(process.pid)
    assert "tutti" in maps and "libstdc++" in maps  # it is the program that is looked at
    for library in ("libtorch", "libc10", "libgomp"):
        assert library not in maps, library


def test_run_does_not_load_libtorch():
    process = subprocess.Popen([TUTTI, "run", "-m", "smollm2", "-p", "Count.", "-n", "2000", "--ignore-eos"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.read(1)  # it answers
    expect_no_torch(process)
    process.kill()
    process.wait()


def test_tokenize_does_not_load_libtorch():
    process = subprocess.Popen([TUTTI, "tokenize", "-m", "smollm2", "--jsonl"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    process.stdin.write(b'"hi"\n' * 20000)
    process.stdin.flush()
    assert process.stdout.readline()
    expect_no_torch(process)
    process.kill()
    process.wait()


def test_chat_does_not_load_libtorch():
    terminal = Terminal("chat", "-m", "smollm2", "-n", 2)
    try:
        terminal.expect("> ")
        terminal.send("hi\r")
        terminal.expect("hi.*\n.*> ")
        expect_no_torch(terminal.process)
    finally:
        terminal.close()


def test_bench_does_not_load_libtorch():
    process = subprocess.Popen([TUTTI, "bench", "-m", "smollm2", "--repeats", "100"], stdout=subprocess.DEVNULL)
    time.sleep(3)
    assert process.poll() is None
    expect_no_torch(process)
    process.kill()
    process.wait()


def test_a_reader_that_goes_away_ends_it_quietly():
    # The shell's way: no Python between the two ends of the pipe.
    command = f"'{TUTTI}' run -m smollm2 -q -p 'List all countries.' -n 3000 --ignore-eos | head -c 1"
    start = time.monotonic()
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stderr == b"" and len(done.stdout) == 1
    assert time.monotonic() - start < 40  # and does not go on to token 3000
    ids = subprocess.run(["bash", "-c", f"yes '\"hello\"' | '{TUTTI}' tokenize -m smollm2 --jsonl | head -1"],
                         capture_output=True, timeout=60)
    assert ids.returncode == 0 and ids.stderr == b"" and ids.stdout == b"[28120]\n"


def test_progress_is_only_for_terminals():
    terminal = Terminal("run", "-m", "smollm2", "-p", "Tell me a long story.", "-n", 250, "--samples", 4, "--temp", 1,
                        "--ignore-eos")
    try:
        assert terminal.wait(60) == 0
        screen = terminal.raw.decode()
        assert "rows in this forward" in screen  # the live line
        assert "--- 4 ---" in screen and "4 samples" in screen
    finally:
        terminal.close()
    assert os.environ["TUTTI_THREADS"]  # every test above ran on that many threads
