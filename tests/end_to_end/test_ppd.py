"""Parallel prompt decoding on the real model with the prompt tokens trained for it: the text of plain decoding in fewer
forwards, and the commands that measure and tune."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
from user import jsonl, tutti

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "smollm2-ppd"
ASKS = ["Explain {} to a child.", "List three facts about {}.", "How does {} work?", "Write a short poem about {}.",
        "Give one argument for and one against {}."]
THINGS = ["glass", "a bicycle", "the tides", "chess", "bread", "a compass", "paper", "salt", "maps", "a kite"]


def ppd(*options):
    return ["--method", "ppd", "-o", f"prompt_tokens={WEIGHTS}", *(x for o in options for x in ("-o", o))]


@pytest.mark.parametrize("temperature,options", [(0.0, ["rows=16"]), (0.8, ["rows=24"]), (0.0, []),
                                                 (0.7, ["rows=12", "lookup=8"]), (0.0, ["rows=16", "head=lazy"])])
def test_fifty_texts_are_those_of_plain(tmp_path, temperature, options):
    prompts = [ask.format(thing) for ask, thing in product(ASKS, THINGS)]
    jsonl(tmp_path / "prompts.jsonl", [{"prompt": p, "seed": i} for i, p in enumerate(prompts)])
    done = tutti("run", "-m", "smollm2", "--prompts", tmp_path / "prompts.jsonl", "-n", 20, "--temp", temperature,
                 *ppd(*options), "--verify-only")
    assert done.code == 0, done.err
    assert "50 prompts" in done.out and "as plain decoding" in done.out


def test_trained_prompt_tokens_save_forwards():
    answer = tutti("run", "-m", "smollm2", "-p", "Explain glass to a child.", "-n", 64, *ppd("rows=16"), "--json").json()
    method = answer["stats"]["method"]
    assert len(answer["ids"]) / method["forwards"] >= 1.25
    assert sum(method["accepted_by_position"]) == method["accepted"] > 10


def test_the_nearest_token_is_seen_best_and_tune_writes_trees(tmp_path):
    folder = tmp_path / "prompts"
    shutil.copytree(WEIGHTS, folder)
    (folder / "tree.json").unlink()
    text = tutti("run", "-m", "smollm2", "--raw", "-p", "The history of bread begins", "-n", 60, "--json").json()["text"]
    jsonl(tmp_path / "texts.jsonl", [{"prompt": "The history of bread begins", "answer": text}])
    measured = ["-m", "smollm2", "--prompt-tokens", folder, "--texts", tmp_path / "texts.jsonl", "--json"]
    accuracy = tutti("ppd", "eval-acc", *measured).json()
    sums = [sum(row) for row in accuracy["acceptance"]]
    assert len(sums) == 3 and sums[0] == max(sums) > 0.3  # too few places to tell the other two apart
    tuned = tutti("ppd", "tune", *measured, "--rounds", 1, "--rows", 12).json()
    assert tuned["acceptance"] == accuracy["acceptance"]
    assert [rows for rows, _ in tuned["seconds"]] == [1, 2, 3, 4, 6, 8, 12]
    trees = json.loads((folder / "tree.json").read_text())
    assert trees["method"] == "ppd" and len(trees["trees"]) == len(tuned["trees"]) > 0
    built = tutti("ppd", "build-tree", "--from", folder / "tree.json", "--rows", 6, "-o", tmp_path / "six.json", "--json").json()
    assert all(t["rows_per_forward"] <= 6 for t in built["trees"])


def test_says_what_is_missing(tmp_path):
    done = tutti("run", "-m", "smollm2", "-p", "a", "-n", 2, "--method", "ppd")
    assert done.code == 2 and "option prompt_tokens" in done.err
    done = tutti("ppd", "eval-acc", "-m", "smollm2", "--prompt-tokens", WEIGHTS, "--texts", tmp_path / "none.jsonl")
    assert done.code == 1 and "none.jsonl" in done.err
    done = tutti("ppd", "tune", "-m", "gemma3-270m", "--prompt-tokens", WEIGHTS)
    assert done.code == 2 and "hidden size is 640" in done.err
