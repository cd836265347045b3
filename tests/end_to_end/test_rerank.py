"""/v1/embeddings and /v1/rerank with encoders: MiniLM's real weights, and small ones with a head that scores pairs."""

import base64
import http.client
import json
import threading
import time

import numpy
import openai
import pytest
import real_models
import torch
import transformers
from server import Server
from tiny_bert import make_model

QUERY = "How many people live in Berlin?"
LETTERS = "zqxjvkwbgyp"
DOCUMENTS = ["Berlin has 3,520,031 registered inhabitants in an area of 891.82 square kilometres.",
             "New York City is famous for its Metropolitan Museum of Art.",
             "The population of the German capital was about 3.5 million."]


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1", "--max-documents", "5", "--max-inputs", "4", model="minilm")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def minilm():
    return real_models.minilm_reference()


def vector(minilm, text):
    model, tokenizer = minilm
    with torch.no_grad():
        mean = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(0).numpy()
    return mean / numpy.linalg.norm(mean)


def rerank(server, documents, **fields):
    status, _, text = server.request("POST", "/v1/rerank", {"query": QUERY, "documents": documents, **fields})
    assert status == 200, text
    return json.loads(text)


def test_vectors_are_the_models(server, minilm):
    client = server.client()
    answer = client.embeddings.create(model="minilm", input=DOCUMENTS, encoding_format="float")
    ids = [minilm[1].encode(text).ids for text in DOCUMENTS]
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    for text, item in zip(DOCUMENTS, answer.data):
        assert numpy.abs(vector(minilm, text) - numpy.array(item.embedding)).max() < 1e-6
    first = numpy.float32(answer.data[0].embedding)
    for given in (DOCUMENTS[0], ids[0], [ids[0]]):  # token ids are taken as they are, marks and all
        assert (numpy.float32(client.embeddings.create(model="minilm", input=given).data[0].embedding) == first).all()
    raw = json.loads(server.request("POST", "/v1/embeddings", {"input": DOCUMENTS[0], "encoding_format": "base64"})[2])
    assert (numpy.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4") == first).all()
    for body, marks in (({"prompt": DOCUMENTS[0]}, True), ({"content": DOCUMENTS[0]}, False)):
        counted = json.loads(server.request("POST", "/tokenize", body)[2])["tokens"]
        assert counted == (ids[0] if marks else ids[0][1:-1])
    assert client.models.list().data[0].id == "minilm"


def test_documents_come_by_cosine(server, minilm):
    answer = rerank(server, DOCUMENTS)
    query = vector(minilm, QUERY)
    cosines = [float(query @ vector(minilm, d)) for d in DOCUMENTS]
    order = sorted(range(3), key=lambda d: -cosines[d])
    assert order[-1] == 1  # the museum
    assert [r["index"] for r in answer["results"]] == order
    for result in answer["results"]:
        assert abs(result["relevance_score"] - cosines[result["index"]]) < 1e-6
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    assert answer["tutti"] == {"score": "cosine"} and answer["model"] == "minilm" and answer["id"].startswith("rerank-")
    tokens = sum(len(minilm[1].encode(t).ids) for t in [QUERY, *DOCUMENTS])
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    # Other forms of the same: objects, some of them, without their texts.
    short = rerank(server, [{"text": d} for d in DOCUMENTS], top_n=2, return_documents=False, model="minilm")
    assert short["results"] == [{k: r[k] for k in ("index", "relevance_score")} for r in answer["results"][:2]]
    assert rerank(server, DOCUMENTS, top_n=9)["results"] == answer["results"]
    # Equal documents stand in the order in which they were given.
    assert [r["index"] for r in rerank(server, [DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[0]])["results"]] == [1, 2, 0]


@pytest.mark.parametrize("body, param, words", [
    ({"documents": ["a"]}, "query", "missing"),
    ({"query": 1, "documents": ["a"]}, "query", "string"),
    ({"query": "a"}, "documents", "at least one"),
    ({"query": "a", "documents": []}, "documents", "at least one"),
    ({"query": "a", "documents": ["a", 1]}, "documents", "documents[1]"),
    ({"query": "a", "documents": [{"title": "a"}]}, "documents", "documents[0]"),
    ({"query": "a", "documents": ["a"] * 6}, "documents", "at most 5"),
    ({"query": "a", "documents": ["a"], "top_n": -1}, "top_n", "top_n"),
    ({"query": "word " * 255, "documents": ["a"]}, "query", "257 tokens do not fit the context of 256"),
    ({"query": "a", "documents": ["a", "word " * 255]}, "documents", "257 tokens do not fit the context of 256"),
])
def test_what_is_refused(server, body, param, words):
    status, error, _ = server.error("POST", "/v1/rerank", body)
    assert (status, error["param"]) == (400, param) and words in error["message"], error


def test_limits_hold_to_the_last(server):
    assert len(rerank(server, ["a"] * 5)["results"]) == 5
    client = server.client()
    assert len(client.embeddings.create(model="minilm", input=["word " * 254] * 4).data) == 4
    with pytest.raises(openai.BadRequestError, match="at most 4"):
        client.embeddings.create(model="minilm", input=["a"] * 5)
    with pytest.raises(openai.BadRequestError, match="257 tokens do not fit the context of 256"):
        client.embeddings.create(model="minilm", input="word " * 255)
    assert server.error("POST", "/v1/rerank", {"query": "a", "documents": ["a"], "rank_fields": ["text"]})[0] == 501


def test_long_texts_are_read_beside_the_engine(server):
    """Much text is encoded away from the net thread: the same vectors, scores and refusals."""
    texts = [f"{place} " + "q" * 40000 + " lies here" for place in ("Berlin", "Rome", "Paris")]  # the letters: one unknown word
    embed = lambda given: json.loads(server.request("POST", "/v1/embeddings", {"input": given})[2])
    together = embed(texts)
    assert [d["embedding"] for d in together["data"]] == [embed(t)["data"][0]["embedding"] for t in texts]
    assert together["usage"]["prompt_tokens"] == sum(embed(t)["usage"]["prompt_tokens"] for t in texts)
    ranks = rerank(server, texts)
    scores = {r["index"]: r["relevance_score"] for r in ranks["results"]}
    assert [scores[i] for i in range(3)] == [rerank(server, [t])["results"][0]["relevance_score"] for t in texts]
    for path, body, param in (("/v1/embeddings", {"input": ["a", "word " * 30000]}, "input"),
                              ("/v1/rerank", {"query": "word " * 30000, "documents": ["a"]}, "query"),
                              ("/v1/rerank", {"query": "a", "documents": ["a", "word " * 30000]}, "documents")):
        status, error, _ = server.error("POST", path, body)
        assert (status, error["param"], error["code"]) == (400, param, "context_length_exceeded"), error
        assert "30002 tokens do not fit the context of 256" in error["message"]


def test_hostile_texts_keep_nobody_waiting(server):
    """Words that match one letter at a time, megabytes of them, whose number of tokens is known at the end only."""
    hostile = "".join(LETTERS[i * 7 % 11] for i in range(99)) + " "
    done = []

    def send():
        start = time.monotonic()
        status, error, _ = server.error("POST", "/v1/embeddings", {"input": hostile * 80000})
        done.append((time.monotonic() - start, status, error["code"]))

    sender = threading.Thread(target=send)
    sender.start()
    worst = 0.0
    while sender.is_alive():
        start = time.monotonic()
        assert server.request("GET", "/health")[0] == 200
        worst = max(worst, time.monotonic() - start)
    sender.join()
    took, status, code = done[0]
    assert (status, code) == (400, "context_length_exceeded")
    assert worst < took / 3, (worst, took)


def test_a_client_that_goes_ends_its_request():
    server = Server("-t", "1", model="minilm")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = json.dumps({"query": QUERY, "documents": ["word " * 200] * 1024})  # a minute's work
        connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
        wait_for(lambda: server.metrics()[("tutti:ticks_total", "")] > 0)
        connection.close()
        wait_for(lambda: server.metrics()[("tutti:num_requests_running", "")] == 0, seconds=5)
        metrics = server.metrics()
        assert metrics[("tutti:request_success_total", "abort")] == 1 and metrics[("tutti:kv_cache_usage_perc", "")] == 0
        assert metrics[("tutti:rows_total", "")] < 1024 * 200  # far from all of it
        assert len(rerank(server, DOCUMENTS)["results"]) == 3
    finally:
        assert server.stop() == 0


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_encoder_writes_nothing(server):
    client = server.client()
    with pytest.raises(openai.BadRequestError, match="is an encoder.*use /v1/embeddings or /v1/rerank"):
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.BadRequestError, match="is an encoder"):
        client.completions.create(model="minilm", prompt="a")
    listed = json.loads(server.request("GET", "/v1/methods")[2])["models"]
    assert listed == [{"id": "minilm", "chat": False, "max_model_len": 256, "auto": None, "methods": []}]
    assert "an encoder: embeddings, rerank" in server.log and "f32 keys and values" in server.log
    metrics = server.metrics()
    assert metrics[("tutti:kv_cache_usage_perc", "")] == 0 and metrics[("tutti:num_requests_running", "")] == 0


def test_a_head_scores_pairs(tmp_path):
    model, tokenizer = make_model(tmp_path, kind=transformers.BertForSequenceClassification, num_labels=1)
    server = Server("-t", "2", model=tmp_path)
    try:
        documents = [*DOCUMENTS[1:], "", "x"]
        answer = rerank(server, documents)
        assert answer["tutti"] == {"score": "classifier"}
        tokens = 0
        scores = []
        for document in documents:
            encoding = tokenizer.encode(QUERY, document)
            tokens += len(encoding.ids)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids]))
            scores.append(float(logits.logits[0, 0].sigmoid()))
        assert max(scores) - min(scores) > 1e-3  # they tell the documents apart
        assert [r["index"] for r in answer["results"]] == sorted(range(len(scores)), key=lambda d: -scores[d])
        for result in answer["results"]:
            assert abs(result["relevance_score"] - scores[result["index"]]) < 1e-5
        assert answer["usage"]["total_tokens"] == tokens
        # Its states are the body's, as those of any encoder.
        text = tokenizer.encode(DOCUMENTS[1])
        with torch.no_grad():
            mean = model.bert(input_ids=torch.tensor([text.ids])).last_hidden_state[0].mean(0).numpy()
        vector = server.client().embeddings.create(model=tmp_path.name, input=DOCUMENTS[1]).data[0].embedding
        assert numpy.abs(mean / numpy.linalg.norm(mean) - numpy.array(vector)).max() < 1e-5
        assert "a head that scores pairs" in server.log
    finally:
        assert server.stop() == 0


def test_a_head_of_several_labels_scores_nothing(tmp_path):
    make_model(tmp_path, kind=transformers.BertForSequenceClassification, num_labels=3)
    server = Server("-t", "1", model=tmp_path)
    try:
        status, error, _ = server.error("POST", "/v1/rerank", {"query": "a", "documents": ["b"]})
        assert (status, error["param"]) == (400, "model") and "3 labels" in error["message"]
        assert server.client().embeddings.create(model=tmp_path.name, input="a").data
    finally:
        assert server.stop() == 0


def test_states_of_a_causal_model_serve_too():
    server = Server("-t", "2", "--arithmetic", "exact-f32", "--kv", "f32")
    try:
        answer = rerank(server, DOCUMENTS)
        data = server.client().embeddings.create(model="smollm2", input=[QUERY, *DOCUMENTS]).data
        query, *vectors = [numpy.array(d.embedding, numpy.float64) for d in data]
        for result in answer["results"]:
            assert abs(result["relevance_score"] - float(query @ vectors[result["index"]])) < 1e-6
        assert answer["tutti"] == {"score": "cosine"}
    finally:
        assert server.stop() == 0
