"""A draft model in the server: the text of plain decoding, by `draft`, `pearl` and `auto`, and what is refused."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server import MODEL, Server
from table_model import TableModel
from user import tutti

DRAFT = Path(__file__).resolve().parents[2] / "weights/smollm2-draft/model.gguf"
QUESTIONS = ["Why is the sky blue?", "Repeat: one two three four five six seven eight nine ten.", "Name three rivers."]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {
    "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]}}}


@pytest.fixture(scope="module", params=[0, 1], ids=["shared cores", "own core"])
def server(request):
    running = Server("-t", "2", "-md", DRAFT, "--draft-cores", request.param, "--num-speculative-tokens", "6")
    running.own_core = bool(request.param)
    yield running
    assert running.stop() == 0


def ask(server, question, method, **fields):
    options = {"adaptive": "0"} if method in ("draft", "pearl") else {}
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 24, "temperature": 0.7, "seed": 5,
            "method": method, "method_options": options, **fields}
    status, _, text = server.request("POST", "/v1/chat/completions", body)
    assert status == 200, text
    if not fields.get("stream"):
        answer = json.loads(text)
        return answer["choices"], answer["usage"]
    pieces = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    return "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces if p["choices"]), pieces[-1]["usage"]


def by_method(server):
    return {sample.labels["method"]: sample.value
            for family in text_string_to_metric_families(server.request("GET", "/metrics")[2]) for sample in family.samples
            if sample.name == "tutti:choices_by_method_total"}


def test_text_is_that_of_plain(server):
    before, counters = by_method(server), server.metrics()
    methods = ["plain", "draft", "auto", *(["pearl"] if server.own_core else [])]
    for fields in ({}, {"temperature": 0}, {"n": 2, "logprobs": True, "top_logprobs": 2}, {"response_format": SCHEMA}):
        plain, _ = ask(server, QUESTIONS[0], "plain", **fields)
        for method in methods[1:]:
            choices, usage = ask(server, QUESTIONS[0], method, **fields)
            assert choices == plain, (method, fields)
            assert usage["tutti"]["method"] == ("draft" if method == "auto" else method)
    streamed, usage = ask(server, QUESTIONS[0], "draft", stream=True, stream_options={"include_usage": True})
    assert streamed == ask(server, QUESTIONS[0], "plain")[0][0]["message"]["content"]
    details = usage["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"] > 0
    after, now = by_method(server), server.metrics()
    counted = {method: after.get(method, 0) - before.get(method, 0) for method in after}
    assert counted["plain"] == 6 and counted["draft"] == 2 * 5 + 1 and counted.get("pearl", 0) == 5 * server.own_core
    for name in ("tutti:draft_forwards_total", "vllm:spec_decode_num_draft_tokens_total"):
        assert now[name, ""] > counters[name, ""], name


def test_requests_side_by_side(server):
    methods = ["plain", "draft", "auto", "lookup", "pearl" if server.own_core else "draft"]
    alone = {q: ask(server, q, "plain")[0] for q in QUESTIONS}
    with ThreadPoolExecutor(15) as pool:
        asked = [(q, pool.submit(ask, server, q, m)) for m in methods for q in QUESTIONS]
        for question, answer in asked:
            assert answer.result()[0] == alone[question]


def test_what_it_says_of_itself(server):
    assert f"drafts: by {DRAFT}" in server.log and ("on cores of its own" in server.log) == server.own_core
    table = json.loads(server.request("GET", "/v1/methods")[2])["models"][0]
    assert table["auto"] == "draft" and "draft" in table["methods"] and ("pearl" in table["methods"]) == server.own_core
    options = {o["name"]: o for o in json.loads(server.request("GET", "/openapi.json")[2])["x-server-options"]}
    assert options["draft-model"]["environment"] == "TUTTI_DRAFT_MODEL"
    assert {"--model-draft", "--speculative-model"} <= set(options["draft-model"]["flags"])
    assert {"draft-cores", "draft-max", "draft-min", "draft-p-min"} <= set(options)
    assert "--model-draft" in tutti("serve", "--help").out


def test_each_model_has_its_own(tmp_path):
    model = TableModel()
    assert model.say(["as the table says"]) == "<|say:0|>"
    table = model.write(tmp_path / "t.gguf", "{% for m in messages %}{{ m.content }}{% endfor %}")
    server = Server("-t", "1", "-m", table, "-m", "minilm", "-a", "chat", "-a", "table", "-a", "vectors",
                    "--draft-model", DRAFT, "--model-draft", "none", "--model-draft", "none")
    try:
        assert server.log.count("drafts: by") == 1
        models = {m["id"]: m for m in json.loads(server.request("GET", "/v1/methods")[2])["models"]}
        assert models["chat"]["auto"] == "draft" and models["table"]["auto"] == "lookup" and models["vectors"]["auto"] is None
        with ThreadPoolExecutor(6) as pool:
            drafts = [pool.submit(ask, server, QUESTIONS[0], m, model="chat") for m in ("draft", "plain", "auto")]
            told = [pool.submit(ask, server, "<|say:0|>", "auto", model="table", temperature=0) for _ in range(3)]
            assert len({json.dumps(d.result()[0]) for d in drafts}) == 1
            assert {t.result()[0][0]["message"]["content"] for t in told} == {"as the table says"}
        status, error, _ = server.error("POST", "/v1/completions", {"model": "table", "prompt": "a", "method": "draft"})
        assert status == 400 and "needs a draft model" in error["message"]
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("arguments, code, words", [
    (["-md", "no-such-draft"], 1, ["no-such-draft"]),
    (["-md", "gemma3-270m"], 1, ["draft model: its vocabulary has", "the same tokenizer"]),
    (["-md", "minilm"], 1, ["draft model"]),
    (["-m", "minilm", "-md", DRAFT], 2, ["--draft-model: is given 1 times for 2 models", '"none"']),
    (["-m", "minilm", "-md", "none", "-md", DRAFT], 1, ["model minilm", "drafts for causal models"]),
    (["--draft-cores", "1"], 2, ["--draft-cores", "--draft-model"]),
    (["-md", DRAFT, "--draft-cores", "64"], 2, ["--draft-cores 64"]),
    (["-md", DRAFT, "--draft-max", "0"], 2, ["--draft-max 0", "a whole number from 1 to 256"]),
    (["--num-speculative-tokens", "257"], 2, ["--draft-max 257"]),
    (["--draft-max", "few"], 2, ["--draft-max few"]),
    (["--draft-min", "2.5"], 2, ["--draft-min 2.5", "a whole number from 0 to 256"]),
    (["--draft-p-min", "1.5"], 2, ["--draft-p-min 1.5", "a number from 0 to 1"]),
    (["--draft-min", "9", "--draft-max", "4"], 2, ["--draft-min 9", "more than --draft-max, 4", "a greater --draft-max"]),
    (["--draft-min", "17"], 2, ["--draft-min 17", "more than --draft-max, 16"]),
    (["-o", "draft_max=0"], 2, ["--draft-max 0"]),
])
def test_what_is_refused(arguments, code, words):
    done = tutti("serve", "-m", MODEL, "--port", "0", *arguments)
    assert done.code == code, done.err
    for word in words:
        assert word in done.err, done.err


def test_values_come_from_the_environment_too(monkeypatch):
    monkeypatch.setenv("TUTTI_DRAFT_P_MIN", "-1")
    done = tutti("serve", "-m", MODEL, "--port", "0")
    assert done.code == 2 and "--draft-p-min -1: wants a number from 0 to 1" in done.err, done.err


def test_what_is_said_of_drafts_reaches_auto_without_a_draft_model():
    """Where it is lookup: what that has. Of the rest the start says whose it is."""
    server = Server("-t", "1", "--draft-max", "2", "--draft-p-min", "0.1", "-o", "adaptive=0")
    try:
        assert "note: --draft-p-min: model smollm2 writes by lookup, which has no such option; it holds for requests by draft, early-exit\n" in server.log
        assert "note: --draft-max" not in server.log

        def forwards(**fields):
            body = {"prompt": "red green blue " * 12, "max_tokens": 32, "temperature": 0, "ignore_eos": True, **fields}
            status, _, text = server.request("POST", "/v1/completions", body)
            assert status == 200, text
            assert json.loads(text)["usage"]["tutti"]["method"] == "lookup"
            return json.loads(text)["usage"]["tutti"]["forwards"]

        said = {n: forwards(method="lookup", method_options={"draft_max": n, "adaptive": 0}) for n in (2, 16)}
        assert said[2] > said[16]
        assert forwards() == forwards(method="lookup") == said[2]
        # What a request says itself counts, and what no method takes of a request is not taken of the operator: the same limits.
        assert forwards(method_options={"draft_max": 16}) == said[16]
        for value, status in ((256, 200), (257, 400), (0, 400)):
            assert server.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2, "method_options": {"draft_max": value}})[0] == status
    finally:
        assert server.stop() == 0
