"""Masked models through the program: answers, traces, tasks, GGUF, a trained filter, and what is refused."""

import json
import re

import program
import pytest
from user import Terminal, jsonl, tutti

SUDOKU = program.ROOT / "weights" / "sudoku"
PUZZLE = "1003200000140002\n"


def solve(*arguments, puzzle=PUZZLE):
    return tutti("run", "-m", SUDOKU, "--raw", "-f", "-", "-n", "19", *arguments, input=puzzle)


def is_solved(grid, puzzle):
    assert re.fullmatch("[1-4]{16}", grid), grid
    rows = [grid[i:i + 4] for i in range(0, 16, 4)]
    columns = ["".join(row[i] for row in rows) for i in range(4)]
    boxes = [rows[r][c:c + 2] + rows[r + 1][c:c + 2] for r in (0, 2) for c in (0, 2)]
    return (all(len(set(unit)) == 4 for unit in rows + columns + boxes)
            and all(p in ("0", g) for p, g in zip(puzzle, grid)))


def test_a_masked_model_answers_with_few_forwards():
    """The default method; the answer's own rules are checked here, not the model's opinion."""
    answer = solve("--json").json()
    assert is_solved(answer["text"], PUZZLE) and answer["finish_reason"] == "stop"
    assert answer["stats"]["method"]["forwards"] < 8
    slow = solve("--json", "--method", "diffusion", "-o", "policy=static", "-o", "early_stop=0").json()
    assert slow["stats"]["method"]["forwards"] == 19
    fast = solve("--json", "--method", "freedave", "-o", "draft_steps=8").json()
    assert fast["ids"] == slow["ids"] and fast["stats"]["method"]["accepted"] > 0
    assert fast["stats"]["method"]["forwards"] < 19


def test_the_same_tokens_for_every_instruction_set_and_thread_count():
    texts = set()
    for isa in ("scalar", "avx2"):
        for threads in ("1", "2"):
            done = solve("--json", "--temp", "0.7", "--seed", "5", "-t", threads, "-o", "cache=dual", "-o",
                         "block_length=8", "--method", "diffusion")
            texts.add(tuple(done.json()["ids"]))
    assert len(texts) == 1


def test_traces_say_what_was_written_where(tmp_path):
    lines, page = tmp_path / "trace.jsonl", tmp_path / "trace.html"
    answer = solve("--trace", lines, "--trace-page", page, "--method", "diffusion", "-o", "policy=static")
    assert answer.code == 0, answer.err
    steps = [json.loads(line) for line in lines.read_text().splitlines()]
    written = {w["position"]: w["text"] for step in steps for w in step["written"]}
    text = "".join(written.get(i, "?") for i in range(16))
    assert answer.out == text + "\n"
    assert [step["forward"] for step in steps] == list(range(1, len(steps) + 1))
    assert all(0 < w["p"] <= 1 for step in steps for w in step["written"])
    html = page.read_text()
    assert html.startswith("<!doctype html>") and "http" not in html.replace("http-equiv", "")
    assert f'"text":"{text[0]}"' in html


def test_the_terminal_shows_the_answer_filling_in():
    terminal = Terminal("run", "-m", SUDOKU, "--raw", "-p", PUZZLE, "-n", "19", "--visual", "-q")
    try:
        terminal.expect(r"forward 1 \(denoise, \d+ rows\), \d+ of 19 open")
        terminal.expect(r"[1-4]{16}")
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_lines_of_a_file_share_the_engine(tmp_path):
    puzzles = [PUZZLE, "1000002014000031\n", "0200000340000010\n"]
    methods = [{"method": "diffusion", "options": {"policy": "static"}}, {"method": "freedave"},
               {"method": "diffusion", "options": {"policy": "entropy", "cache": "prefix"}}]
    rows = [{"prompt": p, "raw": True, "n": 19, **m} for p, m in zip(puzzles, methods)]
    together = tutti("run", "-m", SUDOKU, "--prompts", jsonl(tmp_path / "p.jsonl", rows)).lines()
    for row, answer in zip(rows, together):
        alone = tutti("run", "-m", SUDOKU, "--prompts", jsonl(tmp_path / "one.jsonl", [row])).lines()[0]
        assert answer["ids"] == alone["ids"]


def test_tasks_print_a_table_and_a_document(tmp_path):
    common = ["eval", "tasks", "-m", SUDOKU, "--problems", "12", "-n", "19"]
    shown = tutti(*common, "--try", "diffusion policy=static", "--try", "freedave draft_steps=4", "--svg",
                  tmp_path / "plot.svg")
    assert shown.code == 0 and "accuracy under parallelism" in shown.out, shown.err
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    document = tutti(*common, "--json", "--batch", "1,4", "--try", "freedave", "--verify-lossless").json()
    first, second = document["trials"]
    assert first["different"] == second["different"] == 0
    assert (first["batch"], second["batch"]) == (1, 4)
    assert first["solved"] == second["solved"] and first["forwards_per_answer"] == second["forwards_per_answer"]
    assert second["ticks"] < first["ticks"]
    # Accepted steps by the forward that they were part of.
    assert first["chains"] == second["chains"] and len(first["chains"]) == 4
    assert sum(k * n for k, n in enumerate(first["chains"])) == first["accepted"] > 0
    assert re.search(r"none, one, two …\n +1 +\d\.\d\d  freedave draft_steps=4: \d+ \d+ \d+ \d+\n", shown.out)
    answers = tmp_path / "answers.jsonl"
    tutti(*common, "--trained", "--write", answers, "--solved-only", "--json").json()
    for line in answers.read_text().splitlines():
        row = json.loads(line)
        assert is_solved(row["answer"], row["prompt"])


def test_sweeps_end_in_the_trials_that_none_beats():
    common = ["eval", "tasks", "-m", SUDOKU, "--problems", "12", "-n", "19", "--trained", "--front"]
    trial = "diffusion policy=credit threshold={0.5,0.9,0.999} credit_alpha={0.3,0.7}"
    document = tutti(*common, "--json", "--try", trial, "--try", "diffusion policy=static").json()
    trials = document["trials"]
    assert len(trials) == 7 and trials[1]["options"]["credit_alpha"] == "0.7"
    points = {t["label"]: (t["forwards_per_answer"], t["accuracy"]) for t in trials}
    assert len(points) == 7
    best = {p for p in points.values()
            if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points.values())}
    assert {points[row["label"]] for row in document["pareto_front"]} == best
    for t in trials:
        assert t["mean_wait"] == pytest.approx(sum(k * n for k, n in enumerate(t["waits"])) / sum(t["waits"]))
    assert trials[-1]["mean_wait"] > trials[0]["mean_wait"]  # one position a forward, all others wait
    assert "not beaten in both" in tutti(*common, "--try", trial).out
    wrong = tutti(*common, "--try", "diffusion threshold={" + ",".join("1" * 101) + "} steps={" + ",".join("1" * 101) + "}")
    assert wrong.code == 2 and "sweep fewer values" in wrong.err


def test_problems_of_a_file_are_checked(tmp_path):
    right = solve("--json").json()["text"]
    file = jsonl(tmp_path / "exact.jsonl", [{"prompt": PUZZLE, "answer": right + "\n"}, {"prompt": PUZZLE, "answer": "1"}])
    common = ["eval", "tasks", "-m", SUDOKU, "-n", "19", "--json", "--file"]
    assert tutti(*common, file).json()["trials"][0]["solved"] == 1
    file = jsonl(tmp_path / "number.jsonl", [{"question": PUZZLE, "answer": "so #### " + right}])
    assert tutti(*common, file, "--check", "number").json()["trials"][0]["solved"] == 1
    file = jsonl(tmp_path / "python.jsonl", [{"prompt": PUZZLE, "test": "", "entry_point": "f"}])
    refused = tutti(*common, file, "--check", "python")
    assert refused.code == 2 and "--run-code" in refused.err
    ran = tutti(*common, file, "--check", "python", "--run-code")
    if ran.code == 0:  # else the kernel gives no namespaces
        assert ran.json()["trials"][0]["solved"] == 0
    wrong = jsonl(tmp_path / "wrong.jsonl", [{"prompt": PUZZLE}])
    done = tutti(*common, wrong)
    assert done.code == 2 and "wrong.jsonl, line 1" in done.err and "answer" in done.err


def test_a_filter_is_trained_and_used(tmp_path):
    path = tmp_path / "filter.safetensors"
    report = tutti("train-filter", "-m", SUDOKU, "--problems", "60", "-n", "19", "--block-length", "8", "--epochs", "200",
                   "--out", path, "--records", tmp_path / "records.jsonl", "--json").json()
    assert report["differ"] == 0 and report["oracle_forwards"] < report["static_forwards"] / 2
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert len(records) == report["records"] == report["oracle_forwards"]
    assert all(len(r["confidence"]) == len(r["is_correct"]) <= 8 for r in records)
    answer = solve("--json", "--method", "diffusion", "-o", "policy=learned", "-o", f"filter={path}", "-o",
                   "block_length=8").json()
    assert answer["stats"]["method"]["forwards"] < 19
    wrong = solve("--method", "diffusion", "-o", "policy=learned", "-o", f"filter={path}")
    assert wrong.code == 2 and "trained for blocks of 8" in wrong.err


def test_a_gguf_of_the_folder_writes_the_same(tmp_path):
    gguf = tmp_path / "sudoku.gguf"
    assert tutti("quantize", "-m", SUDOKU, gguf, "F32", "-q").code == 0
    of_folder = solve("--json").json()
    of_file = tutti("run", "-m", gguf, "--raw", "-f", "-", "-n", "19", "--json", input=PUZZLE).json()
    assert of_file["ids"] == of_folder["ids"]
    small = tmp_path / "small.gguf"
    assert tutti("quantize", "-m", SUDOKU, small, "Q8_0", "-q").code == 0
    answer = tutti("run", "-m", small, "--raw", "-f", "-", "-n", "19", "--json", input=PUZZLE).json()
    assert is_solved(answer["text"], PUZZLE)


@pytest.mark.parametrize("arguments,words", [
    (["--method", "plain"], "use diffusion, freedave"),
    (["--method", "diffusion", "-o", "policy=brave"], "policies are static"),
    (["--method", "diffusion", "-o", "steps=7", "-o", "block_length=4"], "give a multiple"),
    (["--method", "diffusion", "-o", "treshold=0.9"], "has no option treshold"),
    (["--method", "diffusion", "-o", "pin=30:1"], "do not lie within"),
    (["--presence-penalty", "1"], "penalties"),
    (["--prompt-cache", "x.kv"], "prompt cache"),
])
def test_what_is_refused(arguments, words):
    done = solve(*arguments)
    assert done.code in (1, 2) and done.out == "" and words in done.err, done.err
