"""`tutti run` on the real models: the JSON form, files of prompts, options, seeds, streams."""

import json
import math

import pytest
from user import jsonl, tutti

PLAIN = ("--method", "plain")  # a row and a forward per token
STATS = {"prompt_tokens", "tokens", "forwards", "rows", "tokens_per_forward", "rows_per_forward", "prompt_tok_s", "tok_s"}


def chat_ids(*messages):
    """The prompt of a conversation by `tutti tokenize`, which conformance compares with transformers."""
    done = tutti("tokenize", "-m", "smollm2", "--jsonl", "--chat", input=json.dumps(messages) + "\n")
    return done.json()["ids"]


def user(text):
    return {"role": "user", "content": text}


def decoded(ids):
    return tutti("tokenize", "-m", "smollm2", "--jsonl", "--decode", input=json.dumps(ids) + "\n").json()


def check_answer(answer, tokens=None, alone=True):
    """Of method plain."""
    assert {"text", "ids", "prompt_ids", "finish_reason", "stats"} <= set(answer)
    stats = answer["stats"]
    assert STATS <= set(stats)
    n = len(answer["ids"])
    assert stats["prompt_tokens"] == len(answer["prompt_ids"])
    assert stats["tokens"] == n
    assert answer["finish_reason"] in ("stop", "length")
    ended = answer["finish_reason"] == "stop"  # the end token is a row, but not an id
    assert stats["rows"] + stats["cached_tokens"] == stats["prompt_tokens"] + n - 1 + ended
    if alone:  # beside others the prompt may take several
        assert stats["forwards"] == n + ended
    assert stats["tokens_per_forward"] == pytest.approx(n / stats["forwards"])
    assert stats["prompt_tok_s"] > 0 and stats["tok_s"] > 0
    if tokens is not None:
        assert (n == tokens and answer["finish_reason"] == "length") or (n < tokens and ended)


def test_json_form():
    answer = tutti("run", "-m", "smollm2", *PLAIN, "-p", "Why is the sky blue?", "-n", 12, "--temp", 0, "--json").json()
    check_answer(answer, 12)
    assert answer["prompt_ids"] == chat_ids(user("Why is the sky blue?"))
    assert answer["text"] == decoded(answer["ids"])
    assert "choices" not in answer and "logprobs" not in answer


def test_raw_takes_the_text_as_it_is():
    answer = tutti("run", "-m", "smollm2", *PLAIN, "--raw", "-p", "The capital of France is", "-n", 6, "--json").json()
    check_answer(answer, 6)
    ids = tutti("tokenize", "-m", "smollm2", "-p", "The capital of France is", "--json").json()["ids"]
    assert answer["prompt_ids"] == ids
    assert "Paris" in answer["text"]


def test_text_streams_and_the_summary_is_on_stderr(tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Name three colours.")
    want = tutti("run", "-m", "smollm2", "-p", "Name three colours.", "-n", 10, "--json").json()
    plain = tutti("run", "-m", "smollm2", "-f", prompt, "-n", 10)
    assert plain.code == 0 and plain.out == want["text"] + "\n"
    assert f"{want['stats']['prompt_tokens']} prompt tokens" in plain.err and "10 tokens" in plain.err
    assert "rows per forward" in plain.err and plain.err.count("\n") == 1
    quiet = tutti("run", "-m", "smollm2", "-f", "-", "-n", 10, "-q", input="Name three colours.")
    assert (quiet.code, quiet.out, quiet.err) == (0, want["text"] + "\n", "")


def test_samples_share_one_batch():
    options = ["-m", "smollm2", *PLAIN, "-p", "Invent a name.", "-n", 8, "--temp", 1, "--seed", 4]
    answer = tutti("run", *options, "--samples", 4, "--json").json()
    assert len(answer["choices"]) == 4
    assert answer["choices"][0]["text"] == answer["text"]
    assert len({c["text"] for c in answer["choices"]}) > 1
    stats = answer["stats"]
    # The prompt once: all but its last token, then a row for every token of every sample.
    rows = sum(len(c["ids"]) + (c["finish_reason"] == "stop") for c in answer["choices"])
    assert stats["rows"] == stats["prompt_tokens"] - 1 + rows
    assert stats["tokens"] == sum(len(c["ids"]) for c in answer["choices"])
    assert stats["rows_per_forward"] > 2
    text = tutti("run", *options, "--samples", 4)
    assert text.out == "".join(f"--- {i + 1} ---\n{c['text']}\n" for i, c in enumerate(answer["choices"]))
    assert "4 samples" in text.err and "rows per forward" in text.err
    alone = tutti("run", *options, "--json").json()
    assert alone["ids"] == answer["ids"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A file that tries every option of a line, with the answers."""
    messages = [{"role": "system", "content": "Answer in one word."}, user("What is 1+1?"),
                {"role": "assistant", "content": "Two."}, user("And 2+2?")]
    rows = [
        {"prompt": "Tell me a story."},
        {"messages": messages, "n": 5, "id": {"mine": [1, 2]}},
        {"prompt": "Tell me a story.", "temp": 0.9, "seed": 11},
        {"prompt": "Tell me a story.", "temp": 0.9, "seed": 12},
        {"prompt": "Tell me a story.", "temp": 0.9, "seed": 11, "top_k": 1},
        {"prompt": "x " * 9000},
        {"prompt": "Tell me a story.", "method": "beam", "options": {"width": 2}, "logprobs": 0},
        {"prompt": "The capital of France is", "raw": True, "n": 4, "logprobs": 3},
        {"prompt": "Tell me a story.", "temp": 0.9, "seed": 11, "samples": 2},
        {"prompt": "Tell me a story.", "system": "You are a pirate."},
        {"prompt": "Hi", "method": "no such"},
        {"prompt": "Tell me a story.", "n": 0},
        {"prompt": "Tell me a story.", "n": 200, "stop": "e"},
        {"prompt": "Say hello.", "n": 60, "ignore_eos": True},
        {"prompt": "Tell me a story.", "temp": 0.9, "bogus": 1},
        {"messages": [{"role": "user"}, 3]},
        {"prompt": ""},
    ]
    path = jsonl(tmp_path_factory.mktemp("run") / "prompts.jsonl", rows)
    path.write_text("\n" + path.read_text() + "  \n")  # blank lines are nothing
    return rows, tutti("run", "-m", "smollm2", *PLAIN, "--prompts", path, "-n", 9)


FAILING = {5: "do not fit the context", 10: "method no such: unknown; methods are plain, beam", 15: "no object"}


def test_prompts_answer_in_order_and_failures_stay_in_their_place(batch):
    rows, done = batch
    answers = done.lines()
    assert len(answers) == len(rows)
    for i, answer in enumerate(answers):
        if i in FAILING:
            assert FAILING[i] in answer["error"] and answer["line"] == i + 2
        else:
            assert "error" not in answer, answer
    assert done.code == 1
    assert "3 of 17 prompts failed" in done.err
    assert "line 16: unknown key \"bogus\" is ignored" in done.err
    assert "rows per forward" in done.err


def test_prompts_options_of_a_line(batch):
    rows, done = batch
    a = done.lines()
    for i in (0, 2, 3, 4, 7, 9, 13, 14, 16):
        check_answer(a[i], rows[i].get("n", 9), alone=False)
    assert a[1]["prompt_ids"] == chat_ids(*rows[1]["messages"])
    assert a[1]["id"] == {"mine": [1, 2]} and len(a[1]["ids"]) <= 5
    assert a[2]["ids"] != a[3]["ids"]  # another seed
    assert a[4]["ids"] == a[0]["ids"]  # top-k 1 is greedy
    assert a[8]["ids"] == a[2]["ids"] and len(a[8]["choices"]) == 2  # the first sample is that of the seed
    assert a[9]["prompt_ids"] == chat_ids({"role": "system", "content": "You are a pirate."}, user("Tell me a story."))
    assert a[11]["ids"] == [] and a[11]["finish_reason"] == "length" and a[11]["stats"]["rows"] == 0
    assert "e" not in a[12]["text"] and a[12]["finish_reason"] == "stop"
    assert "e" in decoded(a[12]["ids"])
    assert len(a[13]["ids"]) == 60 and a[13]["finish_reason"] == "length"
    assert a[16]["prompt_ids"] == chat_ids(user(""))


def test_prompts_log_probabilities(batch):
    _, done = batch
    a = done.lines()
    for i, alternatives in ((6, 0), (7, 3)):
        assert [p["id"] for p in a[i]["logprobs"]] == a[i]["ids"]
        for p in a[i]["logprobs"]:
            assert p["logprob"] <= 0 and len(p["top"]) == alternatives
    for p in a[7]["logprobs"]:  # greedy: the token is the first alternative
        assert p["top"][0]["id"] == p["id"] and p["top"][0]["logprob"] == p["logprob"]
        assert [t["logprob"] for t in p["top"]] == sorted((t["logprob"] for t in p["top"]), reverse=True)
        assert sum(math.exp(t["logprob"]) for t in p["top"]) <= 1.0001
    assert a[7]["logprobs"][0]["top"][0]["text"] == decoded(a[7]["ids"][:1])


@pytest.mark.parametrize("index, options", [
    (0, []),
    (2, ["--temp", 0.9, "--seed", 11]),
    (6, ["--method", "beam", "-o", "width=2"]),
    (9, ["-sys", "You are a pirate."]),
])
def test_a_prompt_alone_is_the_prompt_in_the_file(batch, index, options):
    rows, done = batch
    alone = tutti("run", "-m", "smollm2", "-p", rows[index]["prompt"], "-n", 9, "--json", *options).json()
    together = done.lines()[index]
    for key in ("text", "ids", "prompt_ids", "finish_reason"):
        assert alone[key] == together[key]


def test_sampling_options_of_the_command_line():
    base = ["run", "-m", "smollm2", "-p", "Tell me a story.", "-n", 6, "--json"]
    greedy = tutti(*base).json()["ids"]
    first = greedy[0]
    # Every rule that leaves only the likeliest token gives the greedy text.
    for options in (["--top-k", 1], ["--top-p", 0], ["--min-p", 1], ["--temp", 0.001]):
        assert tutti(*base, "--temp", 1, *options).json()["ids"] == greedy, options
    assert tutti(*base, "--logit-bias", f"{first}:-inf").json()["ids"][0] != first
    assert tutti(*base, "--logit-bias", "42+100", "--samplers", "bias;temperature;top_k").json()["ids"] == [42] * 6
    # The order counts: a bias comes too late once top-k has left one token.
    late = tutti(*base, "--temp", 1, "--top-k", 1, "--logit-bias", "42+100", "--samplers", "top_k;bias").json()["ids"]
    assert late == greedy
    assert tutti(*base, "--temp", 1, "--top-k", 1, "--logit-bias", "42+100").json()["ids"] == [42] * 6
    penalised = tutti(*base, "--logit-bias", "42+100", "--presence-penalty", 90, "--frequency-penalty", 60).json()["ids"]
    assert penalised[0] == 42 and penalised[1:].count(42) <= 1
    assert tutti(*base, "--ctx-size", len(tutti(*base).json()["prompt_ids"]) + 3).json()["ids"] == greedy[:3]


def test_without_a_seed_every_run_is_another():
    base = ["run", "-m", "smollm2", "--raw", "-p", "Once", "-n", 8, "--temp", 1.5, "--json"]
    assert tutti(*base).json()["ids"] != tutti(*base).json()["ids"]
    seeded = [*base, "--seed", 18446744073709551615]
    assert tutti(*seeded).json()["ids"] == tutti(*seeded).json()["ids"]


def test_base_model_without_chat_template():
    done = tutti("run", "-m", "gemma3-270m", *PLAIN, "-p", "The capital of France is", "-n", 4, "--json")
    answer = done.json()
    check_answer(answer, 4)
    assert answer["prompt_ids"][0] == 2  # Gemma's bos
    assert "no chat template" in done.err and done.err.count("\n") == 1
    raw = tutti("run", "-m", "gemma3-270m", "--raw", "-p", "The capital of France is", "-n", 4, "--json")
    assert raw.json()["ids"] == answer["ids"] and raw.err == ""


@pytest.mark.parametrize("text", [b"caf\xff\xfe", b"a\0b", "日本語 😀".encode(), b"\r\n\t\x01"])
def test_any_bytes_are_a_prompt(tmp_path, text):
    path = tmp_path / "prompt"
    path.write_bytes(text)
    check_answer(tutti("run", "-m", "smollm2", *PLAIN, "-f", path, "-n", 2, "--json").json())
