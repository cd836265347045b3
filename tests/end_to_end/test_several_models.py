"""Several models in one process: a request's `model` picks one, and each answers as if it were alone."""

import json
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server import Server
from table_model import TableModel
from user import TUTTI

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
SAID = "what the table says"
QUESTIONS = ["Why is the sky blue?", "Name three rivers.", "Write a line about tea."]
TEXTS = ["a cup of tea", "the river Rhine", "blue light is scattered most"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    model = TableModel()
    assert model.say([SAID]) == "<|say:0|>"
    return model.write(tmp_path_factory.mktemp("table") / "t.gguf", TEMPLATE)


@pytest.fixture(scope="module")
def server(table):
    running = Server("-t", "2", "-m", table, "-m", "minilm", "-a", "chat,gpt-x", "-a", "table", "-a", "vectors")
    yield running
    assert running.stop() == 0


def chats(client, model, before=""):
    return [client.chat.completions.create(model=model, seed=i, max_tokens=24, temperature=0.8,
                                           messages=[{"role": "user", "content": before + q}]).choices[0].message.content
            for i, q in enumerate(QUESTIONS)]


def told(client, model):
    return chats(client, model, "<|say:0|>")


def vectors(client, model):
    return [client.embeddings.create(model=model, input=t).data[0].embedding for t in TEXTS]


def test_each_answers_as_if_it_were_alone(server, table):
    client = server.client()
    jobs = [(chats, "chat"), (vectors, "vectors"), (told, "table"), (chats, "gpt-x"), (vectors, "chat")]
    with ThreadPoolExecutor(len(jobs)) as pool:  # all models at work at the same time
        together = list(pool.map(lambda job: job[0](client, job[1]), jobs))
    assert together[0] == together[3]  # two names of one model
    assert together[2] == [SAID] * len(QUESTIONS)
    for model, own in (("smollm2", [0, 4]), ("minilm", [1]), (table, [2])):
        lone = Server("-t", "2", "-a", "it", model=model)
        try:
            for place in own:
                assert jobs[place][0](lone.client(), "it") == together[place]
        finally:
            assert lone.stop() == 0


def test_who_is_there_is_told(server):
    client = server.client()
    assert [m.id for m in client.models.list().data] == ["chat", "table", "vectors"]
    assert client.models.retrieve("vectors").id == "vectors" and client.models.retrieve("gpt-x").id == "chat"
    with pytest.raises(openai.NotFoundError, match="there is chat, table, vectors"):
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.NotFoundError, match="there is chat, table, vectors"):
        client.embeddings.create(model="other", input="a")
    listed = {m["id"]: m for m in json.loads(server.request("GET", "/v1/methods")[2])["models"]}
    assert listed["chat"]["auto"] == listed["table"]["auto"] and "plain" in listed["chat"]["methods"]
    assert listed["vectors"] == {"id": "vectors", "chat": False, "max_model_len": 256, "auto": None, "methods": []}
    # The first answers where no model is named.
    answer = json.loads(server.request("POST", "/v1/completions", {"prompt": "Tea", "max_tokens": 1})[2])
    assert answer["model"] == "chat"


def test_metrics_tell_them_apart(server):
    server.client().embeddings.create(model="vectors", input=TEXTS)
    text = server.request("GET", "/metrics")[2]
    counts = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in ("tutti:prompt_tokens_total", "vllm:prompt_tokens_total", "tutti:ticks_total"):
                counts[sample.name, sample.labels["model_name"]] = sample.value
    assert {name for _, name in counts} == {"chat", "table", "vectors"}
    assert counts["tutti:prompt_tokens_total", "vectors"] > 0 and counts["tutti:ticks_total", "vectors"] > 0
    assert counts["tutti:prompt_tokens_total", "vectors"] == counts["vllm:prompt_tokens_total", "vectors"]


def test_the_start_says_what_each_may_hold(server):
    pages = re.findall(r"^model (\S+) .*\n.*\n(\d+) pages \((\d+) MiB\) hold (\d+) tokens", server.log, re.M)
    assert [name for name, *_ in pages] == ["chat", "table", "vectors"]
    assert all(int(slots) == 32 * int(count) > 0 for _, count, _, slots in pages)


def test_the_document_takes_all_of_them(server):
    document = json.loads(server.request("GET", "/openapi.json")[2])
    body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["model"]["enum"] == ["chat", "gpt-x", "table", "vectors"]
    assert {576, 384} <= set(body["dimensions"]["enum"])


def test_what_was_accepted_ends_for_all():
    server = Server("-t", "2", "-m", "minilm", "-a", "chat", "-a", "vectors")
    try:
        with ThreadPoolExecutor(2) as pool:
            text = pool.submit(server.client().completions.create, model="chat", prompt="Tea", max_tokens=60, seed=1)
            many = pool.submit(server.client().embeddings.create, model="vectors", input=["word " * 200] * 60)
            while len([v for v in running(server).values() if v > 0]) < 2:
                pass
            server.process.send_signal(signal.SIGTERM)
            assert text.result().usage.completion_tokens > 0 and len(many.result().data) == 60
    finally:
        assert server.process.wait(timeout=60) == 0


def running(server):
    return {sample.labels["model_name"]: sample.value for family in text_string_to_metric_families(
        server.request("GET", "/metrics")[2]) for sample in family.samples if sample.name == "tutti:num_requests_running"}


@pytest.mark.parametrize("arguments, words", [
    (["-m", "minilm", "-m", "minilm"], "model name minilm: is given to two models"),
    (["-m", "minilm", "-m", "smollm2", "-a", "one"], "is given 1 times for 2 models"),
    (["-m", "minilm", "-m", "smollm2", "-a", "one", "-a", "two,one"], "model name one: is given to two models"),
    (["-m", "minilm", "-a", "one,"], "empty name"),
    (["-m", "minilm", "-m", "nowhere"], "model nowhere"),
])
def test_names_that_tell_nothing_apart_are_refused(arguments, words):
    done = subprocess.run([TUTTI, "serve", "--port", "0", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and words in done.stderr, done.stderr


def test_a_file_may_list_them(tmp_path, table):
    config = tmp_path / "serve.json"
    config.write_text(json.dumps({"model": [str(table), "minilm"], "served-model-name": ["a", "b,c"], "port": 0}))
    process = subprocess.Popen([TUTTI, "serve", "--config", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        names = []
        for line in process.stderr:
            if found := re.match(r"model (\S+) ", line):
                names.append(found[1])
            if line.startswith("listening"):
                break
        assert names == ["a", "b"]
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
