"""tutti contexts and run --context: passages read side by side, kept in a folder, reported."""

import json

import pytest
from user import tutti

FACTS = [
    "The hometown of Maria is Lisbon. The profession of Peter is teacher. The favourite drink of Anna is tea.",
    "The hometown of David is Madrid. The profession of Laura is lawyer. The favourite drink of Simon is milk.",
    "The hometown of Julia is Vienna. The profession of Martin is pilot. The favourite drink of Emma is water.",
]
QUESTION = "Question: What is the profession of Martin?\nAnswer: The profession of Martin is"
RAW = ["--raw", "--context-prefix", "Facts:\n\n", "-n", 6, "--json", "-q"]


@pytest.fixture
def folder(tmp_path):
    for i, text in enumerate(FACTS):
        (tmp_path / f"{i}.txt").write_text(text)
    return tmp_path


def contexts_of(folder):
    return [word for i in range(3) for word in ("--context", folder / f"{i}.txt")]


def run(folder, *options):
    return tutti("run", "-m", "smollm2", "-p", QUESTION, *RAW, "--context-folder", folder / "kept",
                 *contexts_of(folder), *options).json()


def test_the_answer_stands_in_a_context(folder):
    first = run(folder, "--context-report")
    assert first["text"].split()[0].strip(".") in ("teacher", "lawyer", "pilot")  # a small model, but it reads them
    assert first["stats"]["context_store_tokens"] == 0
    mass = first["context_mass"]
    assert len(mass["contexts"]) == 3 and len(mass["layers"]) == 30
    assert all(0 < share < 1 for share in mass["contexts"]) and mass["prefix"] + sum(mass["contexts"]) < 1
    # Again, from the folder: the same text, no passage computed.
    again = run(folder)
    assert again["ids"] == first["ids"]
    assert again["stats"]["context_store_tokens"] == first["stats"]["prompt_tokens"] - len(first["prompt_ids"]) > 0
    assert again["stats"]["rows"] < first["stats"]["rows"]
    assert run(folder, "--no-context-store")["ids"] == first["ids"]
    # One after the other: as many tokens, all of them computed.
    sequential = run(folder, "--context-mode", "sequential")
    assert sequential["stats"]["prompt_tokens"] == first["stats"]["prompt_tokens"] <= sequential["stats"]["rows"]


def test_add_list_remove(folder):
    kept = ["--context-folder", folder / "kept"]
    added = tutti("contexts", "add", "-m", "smollm2", "--raw", "--context-prefix", "Facts:\n\n", *kept, "-q", "--json",
                  *(folder / f"{i}.txt" for i in range(3))).json()
    assert [entry["name"] for entry in added] == ["0.txt", "1.txt", "2.txt"]
    listed = tutti("contexts", "list", *kept, "--json").json()
    assert sorted(entry["id"] for entry in listed) == sorted(entry["id"] for entry in added)
    assert all(entry["tokens"] > 10 and entry["bytes"] > 10000 and entry["model"] == "smollm2" for entry in listed)
    by_name = tutti("run", "-m", "smollm2", "-p", QUESTION, *RAW, *kept, "--context", "2.txt", "--context",
                    added[0]["id"][:8], "--context", added[1]["id"]).json()
    assert by_name["stats"]["context_store_tokens"] == sum(entry["tokens"] for entry in added)
    # Behind another prefix they are other contexts: computed again, and said so.
    other = tutti("run", "-m", "smollm2", "-p", QUESTION, "-n", 2, "--json", *kept, "--context", "2.txt")
    assert "another prefix" in other.err and other.json()["stats"]["context_store_tokens"] == 0
    assert "removed 1" in tutti("contexts", "remove", *kept, added[0]["id"]).out
    assert len(tutti("contexts", "list", *kept, "--json").json()) == 3  # two, and the one of the other prefix
    assert tutti("contexts", "remove", *kept, "--all").code == 0
    assert tutti("contexts", "list", *kept, "--json").json() == []


def test_lines_have_contexts_of_their_own(folder):
    lines = [{"prompt": QUESTION, "contexts": FACTS}, {"prompt": QUESTION},
             {"prompt": QUESTION, "contexts": FACTS, "context_mode": "sequential"},
             {"prompt": QUESTION, "contexts": [{"id": "nothing"}]}]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = tutti("run", "-m", "smollm2", "--prompts", folder / "lines.jsonl", *RAW, "--context-folder", folder / "kept")
    answers = done.lines()
    assert done.code == 1 and "nothing" in answers[3]["error"]
    assert answers[0]["ids"] == run(folder)["ids"]
    assert answers[1]["stats"]["prompt_tokens"] < answers[0]["stats"]["prompt_tokens"]
    assert answers[2]["ids"] == run(folder, "--context-mode", "sequential")["ids"]


def test_tune_and_eval(folder):
    item = {"contexts": FACTS, "prompt": QUESTION, "answer": " pilot"}
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    found = tutti("contexts", "tune", "-m", "smollm2", "--raw", folder / "items.jsonl", "--json", "-q").json()
    tried = [s for s in found["settings"] if s["mode"] == "ape"]
    assert len(tried) == 4 + 9 + 9 and found["best"]["log_probability"] == max(s["log_probability"] for s in tried)
    rows = tutti("eval", "passages", "-m", "smollm2", "--passages", "1,2", "--items", 2, "--json", "-q").json()["rows"]
    # One passage behind a prefix, unweighed, is the sequential prompt.
    one = {row["mode"]: row for row in rows if row["passages"] == 1}
    assert abs(one["prefix"]["kl_from_sequential"]) < 1e-9 and one["prefix"]["top_1_agreement"] == 1
    assert one["ape"]["kl_from_sequential"] > 0 and one["pcw"]["kl_from_sequential"] > 0


def test_bench(folder):
    table = tutti("contexts", "bench", "-m", "smollm2", "--lengths", "64", "--passage", 32, "--query", 8, "-n", 2,
                  "--repeats", 1, "--bench-folder", folder / "b", "--svg", folder / "plot.svg", "--json", "-q").json()
    row = table["rows"][0]
    assert row["passages"] == 2 and 0 < row["ape_prefill_memory_s"] < row["sequential_prefill_s"]
    assert (folder / "plot.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("options, words", [
    (["--context", "no-such-context"], "neither a file nor a stored context"),
    (["--context", "0.txt", "--context-temperature", "0"], "temperature"),
    (["--context", "0.txt", "--context-scale", "11"], "scale"),
    (["--context", "0.txt", "--context-mode", "other"], "other"),
    (["--context", "0.txt", "--context-budget", "4Q"], "4Q"),
    (["--context", "0.txt", "--prompt-cache", "x"], "prompt cache"),
    (["--context", "empty.txt"], "empty"),
    (["--context", "0.txt", "-c", "40"], "does not fit"),
])
def test_errors(folder, options, words):
    (folder / "empty.txt").write_text("")
    options = [folder / o if o.endswith(".txt") else o for o in options]
    done = tutti("run", "-m", "smollm2", "-p", QUESTION, *RAW, "--context-folder", folder / "kept", *options)
    assert done.code in (1, 2) and done.out == "" and words in done.err
    assert tutti("contexts", "remove", "--context-folder", folder / "kept").code == 2
    assert tutti("contexts", "remove", "--context-folder", folder / "kept", "nothing").code == 1
