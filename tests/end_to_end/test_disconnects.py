"""Clients that go away in every state that a request can be in, and those that only stop sending.

That pages come back within one tick is shown where ticks can be counted (src/serve/worker_test.cpp); here, that the same
holds from a client's socket on, by the server's own counters."""

import http.client
import json
import socket
import time

import pytest
from program import ROOT
from server import Server
from test_serve import ask

SUDOKU = ROOT / "weights" / "sudoku-blocks"
COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"
LONG = {"prompt": "Once upon a time " * 20, "max_tokens": 4000, "ignore_eos": True}
STATES = {
    "prefilling": (COMPLETIONS, {"prompt": "word " * 3000, "max_tokens": 100}),
    "decoding": (COMPLETIONS, LONG),
    "drafting": (COMPLETIONS, {**LONG, "method": "lookup"}),
    "in a fork": (COMPLETIONS, {**LONG, "n": 8, "temperature": 1}),
    "among beams": (COMPLETIONS, {**LONG, "method": "beam", "method_options": {"width": 8}, "temperature": 0}),
    "several prompts": (COMPLETIONS, {**LONG, "prompt": [LONG["prompt"], "Twice"]}),
    "under a grammar": (COMPLETIONS, {**LONG, "guided_regex": "([a-z]{1,9} ){1500}"}),
    "whose grammar is new and large": (COMPLETIONS, {**LONG, "guided_regex": "([a-z]{1,9} [A-Z]{1,9} ){2000}"}),
    "scoring a prompt": (COMPLETIONS, {"prompt": "word " * 3000, "max_tokens": 0, "echo": True, "logprobs": 1}),
    "making vectors": (EMBEDDINGS, {"input": ["word " * 300] * 20}),
}


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1", "-q", "-N", "2")
    yield running
    assert running.stop() == 0


def send(server, path, body, version="1.1"):
    data = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    s.sendall(f"POST {path} HTTP/{version}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return s


def answer(s):
    response = http.client.HTTPResponse(s)
    response.begin()
    return response.status, response.read().decode()


class Counters:
    def __init__(self, server):
        values = server.metrics()
        one = lambda name: values[("tutti:" + name, "")]
        self.running, self.waiting = one("num_requests_running"), one("num_requests_waiting")
        self.pages = one("kv_pages") - one("kv_pages_free")
        self.held = self.pages - one("kv_pages_cached")  # by requests alone
        self.ticks, self.runs = one("ticks_total"), one("e2e_request_latency_seconds_count")
        self.aborted = values[("tutti:request_success_total", "abort")]


def until(server, condition, seconds=30):
    """The first counters that satisfy it: each look waits for a tick, and ticks of prompts are long."""
    end = time.monotonic() + seconds
    while not condition(now := Counters(server)):
        assert time.monotonic() < end, vars(now)
        time.sleep(0.02)
    return now


def goes(server, path, body, runs=1):
    """The client of a request goes away when it has been in some ticks; counters then and afterwards."""
    before = Counters(server)
    assert before.held == before.running == before.waiting == 0
    with send(server, path, body):
        busy = until(server, lambda now: now.running == runs and now.ticks > before.ticks + 1)
        assert busy.pages > 0
    after = until(server, lambda now: now.running == 0)
    assert after.held == 0 and after.aborted == before.aborted + runs and after.runs == before.runs + runs
    return busy, after


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_everything(server, state, stream):
    path, body = STATES[state]
    if path != EMBEDDINGS:
        body = {**body, "stream": stream}
    elif stream:
        pytest.skip("vectors are not streamed")
    busy, after = goes(server, path, body, runs=len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1)
    assert body.get("max_tokens") != 4000 or busy.held > 0  # while prompts are read, whole pages are the cache's, too
    # Nothing of the thousands of forwards that it had asked for was made for nobody.
    assert after.ticks - busy.ticks < 200


def test_a_masked_models_client_goes_away_inside_a_block():
    """So many at a time that the engine gives each a turn in some ticks only: who is gone does not wait for one."""
    server = Server("-t", "1", "-q", "-N", "64", model=SUDOKU)
    try:
        for method in ("diffusion", "freedave"):
            for stream in (False, True):
                body = {"prompt": ["1003200000140002\n"] * 64, "max_tokens": 40, "n": 6, "ignore_eos": True, "stream": stream,
                        "method": method, "method_options": {"policy": "static"}}
                busy, after = goes(server, COMPLETIONS, body, runs=64)
                assert busy.held > 0 and after.ticks - busy.ticks < 8
        # Whoever comes after that is answered as ever.
        one = {"prompt": "1003200000140002\n", "max_tokens": 19, "temperature": 0}
        assert json.loads(server.request("POST", COMPLETIONS, one)[2])["choices"][0]["finish_reason"] == "stop"
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_queued_client_goes_away_and_nobody_else_does(server, stream):
    client = server.client()
    wanted = ask(client, max_tokens=60).choices[0].message.content
    before = Counters(server)
    with send(server, COMPLETIONS, LONG):
        first = ask(client, max_tokens=60, stream=True)
        until(server, lambda now: now.running == 2)
        waiting = [send(server, COMPLETIONS, {**LONG, "stream": stream}) for _ in range(5)]
        until(server, lambda now: now.waiting == 5)
        for s in waiting[1:]:
            s.close()
        until(server, lambda now: now.waiting <= 1)
        assert "".join(c.choices[0].delta.content or "" for c in first if c.choices) == wanted
        waiting[0].close()
    after = until(server, lambda now: now.running + now.waiting == 0)
    assert after.held == 0 and after.aborted == before.aborted + 6 and after.runs == before.runs + 7


def test_a_client_that_only_stops_sending_gets_its_answer(server):
    body = {"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0}
    wanted = json.loads(server.request("POST", COMPLETIONS, body)[2])["choices"][0]["text"]
    before = Counters(server)
    for queued in (False, True):
        others = [send(server, COMPLETIONS, LONG) for _ in range(2 * queued)]
        until(server, lambda now: now.running == len(others))
        clients = [send(server, COMPLETIONS, {**body, "stream": stream}) for stream in (False, True)]
        for s in clients:
            s.shutdown(socket.SHUT_WR)
        if queued:
            until(server, lambda now: now.waiting == 2)
        for s in others:
            s.close()
        status, whole = answer(clients[0])
        assert status == 200 and json.loads(whole)["choices"][0]["text"] == wanted
        status, events = answer(clients[1])
        texts = [json.loads(e.removeprefix("data: "))["choices"][0]["text"] for e in events.split("\n\n") if e.startswith("data: {")]
        assert status == 200 and "".join(texts) == wanted and events.endswith("data: [DONE]\n\n")
        for s in clients:
            assert s.recv(1) == b""  # the server closes its side, too
            s.close()
    assert until(server, lambda now: now.running == 0).aborted == before.aborted + 2
    # What needs no engine is answered at once, and HTTP/1.0 knows nothing that could be sent to see who is there.
    for line, begin in ((b"GET /health HTTP/1.1\r\n\r\n", b"HTTP/1.1 200"), (b"GET /health HTTP/1.0\r\n\r\n", b"HTTP/1.0 200")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
            s.sendall(line)
            s.shutdown(socket.SHUT_WR)
            assert s.recv(65536).startswith(begin)
    with send(server, COMPLETIONS, body, version="1.0") as s:
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
    until(server, lambda now: now.running == now.held == 0)


def test_one_that_stops_sending_and_goes_later():
    """Its end is no event any more, so it is asked again."""
    own = Server("-t", "1", "-q", "--ping", "0.3")
    try:
        for stream in (False, True):
            s = send(own, COMPLETIONS, {**LONG, "stream": stream})
            s.shutdown(socket.SHUT_WR)
            until(own, lambda now: now.running == 1)
            while not stream and b"100 Continue" not in s.recv(4096):
                pass  # read, so that closing sends no reset by itself
            s.close()
            until(own, lambda now: now.running == 0)
        assert Counters(own).aborted == 2
    finally:
        assert own.stop() == 0
