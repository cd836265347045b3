"""`tutti train` as a process: its files, its answers, Ctrl-C, going on, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from user import TUTTI, Terminal, tutti

RECIPE = {
    "name": "tiny", "seed": 4,
    "model": {"family": "llada", "layers": 1, "hidden": 32, "heads": 2, "intermediate": 64, "context": 48},
    "tokenizer": {"characters": "0123456789+= "},
    "data": {"generator": "addition", "length": 40},
    "loss": {"kind": "masked"},
    "optimiser": {"learning_rate": 0.001},
    "steps": 12, "sequences": 2,
}


@pytest.fixture
def recipe(tmp_path):
    def write(name="recipe.json", **changes):
        (tmp_path / name).write_text(json.dumps(RECIPE | changes))
        return tmp_path / name

    return write


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_a_model_a_log_and_a_plot(recipe, tmp_path):
    evaluation = {"every": 6, "problems": 3}
    answer = tutti("train", recipe(evaluation=evaluation), "--out", tmp_path / "run", "--json").json()
    assert answer["step"] == answer["steps"] == 12 and not answer["stopped"]
    assert answer["evaluation"]["problems"] == 3 and 0 <= answer["evaluation"]["solved"] <= 3
    assert answer["parameters"] == answer["trained_parameters"] > 0
    assert "torch" in answer["machine"]
    log = lines(tmp_path / "run" / "log.jsonl")
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in log if "solved" in line] == [6, 12]
    assert log[0]["tokens"] > log[0]["predicted"] > 0
    for name in ("loss.svg", "solved.svg"):
        assert (tmp_path / "run" / name).read_text().startswith("<svg")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["name"] == "tiny"
    shown = tutti("inspect", "-m", tmp_path / "run" / "model")
    assert shown.code == 0 and "llada" in shown.out
    tokens = tutti("tokenize", "-m", tmp_path / "run" / "model", "--json", "-p", "1+2=")
    assert tokens.code == 0, tokens.err


def test_stopped_runs_go_on_to_the_same_bytes(recipe, tmp_path):
    path = recipe(ema=0.9)
    assert tutti("train", path, "--out", tmp_path / "whole", "-q").code == 0
    first = tutti("train", path, "--out", tmp_path / "parts", "--until", 5, "-q")
    assert first.code == 0 and "step 5 of 12" in first.out
    again = tutti("train", path, "--out", tmp_path / "parts")
    assert again.code == 2 and "--resume" in again.err
    assert tutti("train", path, "--out", tmp_path / "parts", "--resume", "-q").code == 0
    for name in ("model/model.safetensors", "state.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [line["step"] for line in lines(tmp_path / "parts" / "log.jsonl")] == list(range(1, 13))
    # The log of steps that are done again is theirs once only.
    with open(tmp_path / "parts" / "log.jsonl") as file:
        kept = file.readlines()
    assert tutti("train", path, "--out", tmp_path / "again", "--until", 5, "-q").code == 0
    (tmp_path / "again" / "log.jsonl").write_text("".join(kept))
    assert tutti("train", path, "--out", tmp_path / "again", "--resume", "--until", 7, "-q").code == 0
    assert [line["step"] for line in lines(tmp_path / "again" / "log.jsonl")] == list(range(1, 8))


def test_ctrl_c_saves(recipe, tmp_path):
    path = recipe(steps=100000)
    terminal = Terminal("train", path, "--out", tmp_path / "run")
    try:
        terminal.expect(r"step \d+ of 100000  loss [\d.]+  \d+ tokens/s")
        terminal.send(b"\x03")
        before = terminal.expect(r"saved; go on with --resume")
        assert terminal.wait() == 1
    finally:
        terminal.close()
    step = int(re.search(r"stopped after step (\d+)", before).group(1))
    assert lines(tmp_path / "run" / "log.jsonl")[-1]["step"] == step
    more = tutti("train", path, "--out", tmp_path / "run", "--resume", "--until", step + 2, "--json").json()
    assert (more["first_step"], more["step"]) == (step, step + 2)


def test_errors_say_what_to_do(recipe, tmp_path):
    cases = [
        (recipe("a.json", setps=3), 1, 'the nearest known one is "steps"'),
        (recipe("b.json", data={"jsonl": "absent.jsonl", "length": 40}), 1, "absent.jsonl"),
        (recipe("c.json", loss={"kind": "next-token"}), 2, "causal model"),
        (recipe("d.json", data={"generator": "addition", "length": 49}), 2, "context of 48"),
        (recipe("e.json", data={"generator": "addition", "length": 10}), 2, "more than data.length"),
        (recipe("f.json", tokenizer={"characters": "0123456789"}), 2, "tokenizer.characters"),
        (recipe("g.json", device="gpu"), 1, 'give "cpu", "cuda" or "cuda:1"'),
        (recipe("h.json", device="cuda:99"), 2, "device: is cuda:99, but"),
        (tmp_path / "absent.json", 1, "absent.json"),
    ]
    for index, (path, code, words) in enumerate(cases):
        done = tutti("train", path, "--out", tmp_path / f"run{index}")
        assert (done.code, done.out) == (code, ""), done.err
        assert words in done.err, done.err
    done = tutti("train", recipe(), "--out", tmp_path / "none", "--resume")
    assert done.code == 1 and "no run to go on with" in done.err


def test_masked_models_are_not_read_from_left_to_right(recipe, tmp_path):
    assert tutti("train", recipe(), "--out", tmp_path / "run", "-q").code == 0
    text = tmp_path / "text"
    text.write_text("1+2=3 " * 20)
    for command in (["run", "-p", "1+2=", "--method", "plain"], ["eval", "perplexity", "-f", text]):
        done = tutti(*command, "-m", tmp_path / "run" / "model")
        assert done.code == 1 and "masked" in done.err, done.err


def test_only_training_opens_libtorch(recipe, tmp_path):
    process = subprocess.Popen([TUTTI, "train", recipe(steps=100000), "--out", tmp_path / "run", "-q"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "TUTTI_THREADS": "1"})
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "run" / "log.jsonl").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        with open(f"/proc/{process.pid}/maps") as file:
            maps = file.read()
        assert "libtutti_torch" in maps and "libtorch_cpu" in maps
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # The program itself does not name it, so no other command can load it unasked.
    needed = subprocess.run(["readelf", "-d", TUTTI], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed and "torch" not in needed and "c10" not in needed
