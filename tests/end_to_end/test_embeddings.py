"""/v1/embeddings: the mean of the last states, as an independent forward computes it."""

import base64
import json

import numpy
import openai
import pytest
import real_models
from independent_forward import IndependentForward
from server import MODEL, Server
from test_serve import tokens_of

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Grüße", "A"]


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1", "--arithmetic", "exact-f32", "--kv", "f32")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def test_vectors_are_those_of_an_independent_forward(server, client):
    oracle = IndependentForward(real_models.smollm2())
    answer = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert [d.index for d in answer.data] == [0, 1, 2] and answer.object == "list" and answer.model == MODEL
    ids = [tokens_of(server, text) for text in TEXTS]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    for tokens, item in zip(ids, answer.data):
        mean = oracle.final_hidden(tokens).double().numpy().mean(0)
        assert numpy.abs(mean / numpy.linalg.norm(mean) - numpy.array(item.embedding)).max() < 2e-5


def test_every_way_of_asking_gives_the_same_bits(server, client):
    whole = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    vectors = [numpy.float32(d.embedding) for d in whole.data]
    for text, vector in zip(TEXTS, vectors):
        assert abs(float(vector.astype(float) @ vector.astype(float)) - 1) < 1e-5
        for given in (text, tokens_of(server, text), [tokens_of(server, text)]):
            one = client.embeddings.create(model=MODEL, input=given, encoding_format="float").data
            assert len(one) == 1 and (numpy.float32(one[0].embedding) == vector).all()
    raw = json.loads(server.request("POST", "/v1/embeddings", {"input": TEXTS[0], "encoding_format": "base64"})[2])
    assert (numpy.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4") == vectors[0]).all()
    # OpenAI's client asks for base64 by itself.
    assert (numpy.float32(client.embeddings.create(model=MODEL, input=TEXTS[0]).data[0].embedding) == vectors[0]).all()
    many = client.embeddings.create(model=MODEL, input=[f"Text {i}" for i in range(80)])
    assert len(many.data) == 80
    assert client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=len(vectors[0])).data[0].embedding


@pytest.mark.parametrize("body, param, words", [
    ({}, "input", "missing"),
    ({"input": ""}, "input", "at least one token"),
    ({"input": []}, "input", "must be"),
    ({"input": [1, "a"]}, "input", "whole numbers"),
    ({"input": [10 ** 6]}, "input", "vocabulary"),
    ({"input": ["a"] * 2049}, "input", "at most 2048"),
    ({"input": "word " * 9000}, "input", "do not fit the context of 8192"),
    ({"input": "a", "dimensions": 64}, "dimensions", "576 numbers"),
    ({"input": "a", "encoding_format": "hex"}, "encoding_format", "float or base64"),
])
def test_what_is_refused(server, body, param, words):
    status, error, _ = server.error("POST", "/v1/embeddings", body)
    assert (status, error["param"]) == (400, param) and words in error["message"], error


def test_another_model_is_not_there(client):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")
