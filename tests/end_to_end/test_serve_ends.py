"""How a server ends: told to, with requests accepted; told twice; out of time; killed; and that another one takes its place."""

import concurrent.futures
import http.client
import json
import signal
import socket
import time

import openai
import pytest
import random_model
from mixed_requests import WITHOUT_TEXT, Clients, Kinds
from server import Server
from test_serve import wait_until

LONG = {"prompt": "Once", "max_tokens": 3900, "ignore_eos": True, "temperature": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model.write(tmp_path_factory.mktemp("random") / "random.gguf")


def gauge(server, name):
    return server.metrics()[("tutti:" + name, "")]


def stream_of(server, n):
    return server.client().completions.create(model="random.gguf", prompt="Once", max_tokens=3900, n=n, temperature=1, stream=True,
                                              extra_body={"ignore_eos": True})


def test_every_request_that_was_accepted_is_answered(model):
    """Forty at a time of which two run; what they get is what they get of a server that is not ending."""
    server = Server("-q", "-t", "1", "-N", "2", "--grace", "60", model=model)
    try:
        jobs = [(path, {**body, "max_tokens": 200} if "n" not in body and path not in WITHOUT_TEXT else body)
                for path, body in Kinds("random.gguf", ["lookup", "early-exit"]).make(40, 5)]
        alone = Clients(server.port).ask_all(jobs, 1)
        runs = sum(len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1 for _, body in jobs) + 2
        begun = gauge(server, "e2e_request_latency_seconds_count")
        # Two hold the engine until all others stand in the queue.
        with concurrent.futures.ThreadPoolExecutor(42) as pool:
            holders = [pool.submit(server.request, "POST", "/v1/completions", {**LONG, "n": 16}) for _ in range(2)]
            wait_until(lambda: gauge(server, "num_requests_running") == 2)
            asked = [pool.submit(Clients(server.port).ask, job) for job in jobs]
            wait_until(lambda: gauge(server, "num_requests_running") + gauge(server, "num_requests_waiting")
                       + gauge(server, "e2e_request_latency_seconds_count") - begun == runs)
            assert gauge(server, "num_requests_waiting") > 20
            server.process.send_signal(signal.SIGTERM)
            assert [one.result() for one in asked] == alone
            for holder in holders:
                status, _, text = holder.result()
                assert status == 200 and {c["finish_reason"] for c in json.loads(text)["choices"]} == {"length"}
        assert server.process.wait(timeout=60) == 0
    finally:
        server.process.kill()


@pytest.mark.parametrize("twice", [False, True])
def test_what_is_not_ready_in_time_is_told_so(model, twice):
    """When the time of grace is over, or the signal comes again, what still runs or waits ends with an error, not in silence."""
    server = Server("-q", "-t", "1", "-N", "2", "--grace", "60" if twice else "0.5", model=model)
    try:
        stream = stream_of(server, 60)
        next(iter(stream))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            whole = [pool.submit(server.request, "POST", "/v1/completions", {**LONG, "n": 60}) for _ in range(2)]  # one waits
            wait_until(lambda: gauge(server, "num_requests_running") == 2 and gauge(server, "num_requests_waiting") == 1)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            if twice:
                wait_until(lambda: server.request("GET", "/health")[0] == 503)
                server.process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError, match="the server ended"):
                list(stream)
            for one in whole:
                status, _, text = one.result()
                assert status == 503 and json.loads(text)["error"]["type"] == "unavailable_error"
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - start < 20
    finally:
        server.process.kill()


def test_a_server_that_was_killed_is_followed_by_another_at_the_same_port(model):
    first = Server("-q", "-t", "1", model=model)
    body = {"prompt": "Once upon", "max_tokens": 20, "temperature": 0}
    wanted = json.loads(first.request("POST", "/v1/completions", body)[2])["choices"]
    with socket.create_connection(("127.0.0.1", first.port)) as idle, \
            socket.create_connection(("127.0.0.1", first.port)) as busy:
        data = json.dumps({**LONG, "n": 60, "stream": True}).encode()
        busy.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        assert busy.recv(65536)
        first.process.kill()
        assert first.process.wait() == -signal.SIGKILL
        again = Server("-q", "-t", "1", model=model, port=first.port)
        try:
            assert again.port == first.port
            assert json.loads(again.request("POST", "/v1/completions", body)[2])["choices"] == wanted
            # The old one's clients know that it is gone.
            idle.settimeout(20)
            try:
                assert idle.recv(1) == b""
            except ConnectionResetError:
                pass
        finally:
            assert again.stop() == 0


def test_idle_connections_do_not_hold_the_end_up(model):
    server = Server("-q", "-t", "1", "--grace", "60", model=model)
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    kept.request("GET", "/health")
    assert kept.getresponse().read()
    with socket.create_connection(("127.0.0.1", server.port)), socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Le")
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 10
