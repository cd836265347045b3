"""Speculation on the real model: the text of plain decoding, fewer forwards, and what users can ask for with it."""

import json
from pathlib import Path

import pytest
from user import jsonl, tutti

COPY = (
    "Repeat this text word for word: The lighthouse keeper climbed the narrow stairs each evening, lit the great lamp, "
    "and watched the ships pass the reef until the sun rose over the harbour."
)
CHAT = "Name three uses of a brick."
DRAFT = Path(__file__).resolve().parents[2] / "weights/smollm2-draft/model.gguf"


def run(*arguments, prompt=COPY, tokens=40):
    return tutti("run", "-m", "smollm2", "-p", prompt, "-n", tokens, *arguments)


def as_plain(answer, *arguments, prompt=COPY, tokens=40):
    plain = run("--json", *arguments, prompt=prompt, tokens=tokens).json()
    assert answer["ids"] == plain["ids"]
    assert answer["text"] == plain["text"]
    assert answer["finish_reason"] == plain["finish_reason"]
    return plain


def check_counts(answer, tokens_per_forward):
    method = answer["stats"]["method"]
    assert method["accepted"] <= method["proposed"]
    assert sum(method["accepted_by_position"]) == method["accepted"]
    drafted, accepted = method["drafted_by_position"], method["accepted_by_position"]
    assert len(drafted) == len(accepted)
    assert all(a <= d for a, d in zip(accepted, drafted))
    assert accepted == sorted(accepted, reverse=True)
    ended = answer["finish_reason"] == "stop"
    # Every forward gives one token and what it accepts; of the last, some may come after the end.
    assert method["forwards"] + method["accepted"] >= len(answer["ids"]) + ended
    assert len(answer["ids"]) / method["forwards"] >= tokens_per_forward


def test_lookup_copies_in_few_forwards():
    answer = run("--method", "lookup", "-o", "adaptive=0", "--json").json()
    as_plain(answer)
    check_counts(answer, 1.5)


@pytest.mark.parametrize("options", [
    ["--method", "lookup", "--temp", 0.8, "--seed", 5, "--samples", 2, "--repeat-penalty", 1.1, "--logit-bias", "42:-5"],
    ["--method", "lookup", "-o", "branches=3", "-o", "adaptive=0", "--temp", 0.4],
    ["--method", "early-exit", "-o", "exit_layer=27", "--draft-max", 3, "-o", "adaptive=0"],
    ["-md", "smollm2", "--draft-max", 4, "--temp", 0.8, "--top-p", 0.9],
    ["-md", "smollm2", "--draft-cores", 1, "-t", 2, "--draft-max", 4],
])
def test_verify_only_finds_the_text_of_plain(options):
    done = run("--verify-only", *options, tokens=24)
    assert done.code == 0, done.err
    assert "1 prompts" in done.out and "as plain decoding" in done.out


def test_verify_only_names_the_place_that_differs():
    done = run("--verify-only", "--method", "beam", "-o", "width=4", prompt=CHAT, tokens=32)
    assert done.code == 1
    for word in ("method beam differs", "token", "plain decoding has"):
        assert word in done.err


def test_a_draft_that_is_the_target_is_always_accepted():
    answer = run("-md", "smollm2", "--draft-max", 4, "-o", "adaptive=0", "--temp", 0.8, "--seed", 3, "--ignore-eos",
                 "--json", prompt=CHAT, tokens=21).json()
    as_plain(answer, "--temp", 0.8, "--seed", 3, "--ignore-eos", prompt=CHAT, tokens=21)
    method = answer["stats"]["method"]
    assert method["accepted"] == method["proposed"] == 16
    assert method["forwards"] == 5  # the prompt's, and four of five tokens each
    assert method["draft_forwards"] >= 16 and method["draft_seconds"] > 0
    check_counts(answer, 4)


def test_methods_share_one_engine(tmp_path):
    rows = [{"prompt": COPY, "method": m, "temp": t, "seed": 7, "options": o}
            for t in (0, 0.8)
            for m, o in (("plain", {}), ("lookup", {"adaptive": 0}), ("lookup", {"branches": 4}), ("early-exit", {}))]
    lines = tutti("run", "-m", "smollm2", "--prompts", jsonl(tmp_path / "p.jsonl", rows), "-n", 32).lines()
    for i in (0, 4):
        assert all(line["ids"] == lines[i]["ids"] for line in lines[i:i + 4])


def test_lines_can_be_answered_a_few_at_a_time(tmp_path):
    rows = [{"prompt": COPY}, {"prompt": CHAT}, {"prompt": "Hi", "method": "no such"}, {"prompt": COPY, "method": "lookup"}]
    path = jsonl(tmp_path / "p.jsonl", rows)
    at_once, one, two = (tutti("run", "-m", "smollm2", "--prompts", path, "-n", 12, *more)
                         for more in ([], ["--parallel", 1], ["-np", 2]))
    wanted = [line.get("ids") for line in at_once.lines()]
    assert wanted[0] and wanted[2] is None
    assert [line.get("ids") for line in one.lines()] == [line.get("ids") for line in two.lines()] == wanted
    assert one.lines()[3]["stats"]["forwards"] > 0


@pytest.mark.parametrize("options", [["-t", 2], ["-t", 2, "--draft-cores", 1], ["--method", "pearl", "-o", "adaptive=0"],
                                     ["--method", "pearl", "-t", 2, "--draft-cores", 1, "--temp", 0.8]])
def test_our_draft_model_takes_embeddings_and_tokens_of_its_target(options):
    done = run("-md", DRAFT, "--verify-only", *options, prompt=CHAT)
    assert done.code == 0, done.err


def test_our_draft_model_alone_says_what_it_is_for():
    done = tutti("run", "-m", DRAFT, "-p", CHAT)
    assert done.code == 1
    assert "--draft-model beside" in done.err
    other = tutti("run", "-m", "gemma3-270m", "-md", DRAFT, "-p", CHAT)
    assert other.code == 1
    assert "use it with the model that it was trained for" in other.err


@pytest.mark.parametrize("arguments, code, words", [
    (["--method", "draft"], 2, ["needs a draft model", "--draft-model"]),
    (["--draft-max", "4"], 2, ["method auto: has no option draft_max"]),
    (["--draft-cores", "1"], 2, ["--draft-cores", "--draft-model"]),
    (["-md", "gemma3-270m"], 1, ["draft model: its vocabulary has", "same tokenizer"]),
    (["-md", "absent"], 1, ["absent"]),
    (["--method", "lookup", "--draft-max", "0"], 2, ["--draft-max 0", "1 to 256"]),
    (["--method", "lookup", "-o", "verify=rejection", "--logprobs", "1"], 2, ["verify=rejection", "logprobs"]),
])
def test_mistakes(arguments, code, words):
    done = run(*arguments, tokens=4)
    assert done.code == code, done.err
    for word in words:
        assert word in done.err


def test_methods_lists_them():
    methods = {m["name"]: m for m in json.loads(tutti("methods", "--json").out)}
    for name in ("lookup", "draft", "early-exit"):
        assert methods[name]["guarantee"] == "lossless"
        assert {"draft_max", "verify", "adaptive"} <= {o["name"] for o in methods[name]["options"]}
