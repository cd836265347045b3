"""Every limit of the server: what is just within it is answered, what is one more is refused, with the status that it should have."""

import contextlib
import http.client
import json
import socket
import threading
import time

import pytest
import random_model
from server import Server
from test_serve import wait_until

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SMALL = {"prompt": "a", "max_tokens": 1, "temperature": 0}
LONG = {"prompt": "Once", "max_tokens": 3900, "n": 32, "temperature": 1, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model.write(tmp_path_factory.mktemp("random") / "random.gguf")


@pytest.fixture(scope="module")
def server(model):
    running = Server("-q", "-t", "1", "--max-body", "300000", "--max-header", "4096", "--max-tokens", "3000", "--max-choices", "5", model=model)
    yield running
    assert running.stop() == 0


def nested(depth):
    """A body of so many levels, itself the first."""
    return json.dumps(SMALL)[:-1] + ', "x": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def tool(i):
    return {"type": "function", "function": {"name": f"f{i}"}}


def sized(total):
    body = json.dumps({**SMALL, "x": ""})
    return body[:-2] + "y" * (total - len(body)) + '"}'


LIMITS = {  # how a body is made of a number, the greatest number that is taken, path, status beyond
    "choices": (lambda n: {**SMALL, "n": n}, 5, COMPLETIONS, 400),
    "tokens": (lambda n: {**SMALL, "max_tokens": n, "stop": ["e", "a", "t", "i", "o"]}, 3000, COMPLETIONS, 400),
    "stop strings": (lambda n: {**SMALL, "stop": ["x"] * n}, 16, COMPLETIONS, 400),
    "bytes of a stop string": (lambda n: {**SMALL, "stop": "x" * n}, 1024, COMPLETIONS, 400),
    "prompts": (lambda n: {**SMALL, "prompt": ["a"] * n}, 256, COMPLETIONS, 400),
    "inputs": (lambda n: {"input": ["a"] * n}, 2048, EMBEDDINGS, 400),
    "documents": (lambda n: {"query": "a", "documents": ["a"] * n}, 1024, "/v1/rerank", 400),
    "levels": (nested, 64, COMPLETIONS, 400),
    "keys of an object": (lambda n: {**SMALL, **{f"k{i}": 0 for i in range(n - len(SMALL))}}, 4096, COMPLETIONS, 400),
    "bytes of a grammar": (lambda n: {**SMALL, "grammar": 'root ::= "a"'.ljust(n)}, 65536, COMPLETIONS, 400),
    "tools": (lambda n: {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "tools": [tool(i) for i in range(n)],
                         "tool_choice": "none"}, 128, CHAT, 400),
    "tokens of a prompt": (lambda n: {**SMALL, "prompt": [97] * n}, 4095, COMPLETIONS, 400),
    "tokens of a scored prompt": (lambda n: {**SMALL, "prompt": [97] * n, "max_tokens": 0, "echo": True, "logprobs": 0}, 4096, COMPLETIONS, 400),
    "bytes of a body": (sized, 300000, COMPLETIONS, 413),
}


@pytest.mark.parametrize("name", LIMITS)
def test_bodies(server, name):
    make, most, path, status = LIMITS[name]
    got, _, text = server.request("POST", path, make(most))
    assert got == 200, text
    got, error, _ = server.error("POST", path, make(most + 1))
    assert got == status and error["type"] == "invalid_request_error", error


def test_headers(server):
    """Counted from the request's first byte to the empty line."""
    def ask(size):
        head = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: {}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
            s.sendall(head.format("a" * (size - len(head) + 2)).encode())
            return int(s.recv(65536).split()[1])

    assert (ask(4096), ask(4097)) == (200, 431)


def test_connections(model):
    server = Server("-q", "-t", "1", "--max-connections", "3", model=model)
    try:
        def connect():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.connect()
            return connection

        kept = [connect() for _ in range(3)]
        for connection in kept:
            connection.request("GET", "/health")
            assert connection.getresponse().read()
        fourth = connect()
        response = http.client.HTTPResponse(fourth.sock)
        response.begin()  # unasked: it is not let in
        assert response.status == 503 and response.getheader("retry-after")
        assert json.loads(response.read())["error"]["type"] == "overloaded"
        # Those that are in are not disturbed, and a place that is given up is taken.
        kept[0].request("GET", "/health")
        assert kept[0].getresponse().status == 200
        kept[1].close()

        def let_in():
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                connection = connect()
                connection.request("GET", "/health")
                return connection.getresponse().status == 200

        wait_until(let_in)
        for connection in (kept[0], kept[2]):
            connection.close()
    finally:
        assert server.stop() == 0


def test_a_queue_of_none(model):
    server = Server("-q", "-t", "1", "-N", "1", "--max-queue", "0", model=model)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
            data = json.dumps(LONG).encode()
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            wait_until(lambda: server.metrics()[("tutti:num_requests_running", "")] == 1)
            status, error, headers = server.error("POST", COMPLETIONS, SMALL)
            assert status == 429 and error["type"] == "overloaded" and int(headers["retry-after"]) >= 1
            # Of several prompts of one body none may run when one may not.
            assert server.error("POST", COMPLETIONS, {**SMALL, "prompt": ["a", "b"]})[0] == 429
            assert server.metrics()[("tutti:requests_refused_total", "")] == 2
        wait_until(lambda: server.metrics()[("tutti:num_requests_running", "")] == 0)
        assert server.request("POST", COMPLETIONS, SMALL)[0] == 200
        # Two do not fit in one place: the first, which was let in, ends with the second.
        assert server.error("POST", COMPLETIONS, {**SMALL, "prompt": ["a", "b"]})[0] == 429
        wait_until(lambda: server.metrics()[("tutti:num_requests_running", "")] == 0)
    finally:
        assert server.stop() == 0


def test_times(model):
    """Of a request, of its wait, of a connection that says nothing or half a request; and what a silent stream says."""
    server = Server("-q", "-t", "1", "-N", "1", "--queue-timeout", "0.4", "--timeout", "1.5", "--read-timeout", "0.5", "--idle-timeout", "1",
                    "--ping", "0.2", model=model)
    try:
        seen = {}

        def long():
            seen["long"] = server.error("POST", COMPLETIONS, LONG)

        start = time.monotonic()
        thread = threading.Thread(target=long)
        thread.start()
        wait_until(lambda: server.metrics()[("tutti:num_requests_running", "")] == 1)
        status, error, headers = server.error("POST", COMPLETIONS, SMALL)
        assert status == 503 and error["type"] == "overloaded" and headers["retry-after"]
        thread.join()
        status, error, _ = seen["long"]
        assert status == 408 and error["type"] == "timeout" and 1.4 < time.monotonic() - start < 10
        # The stream of a request that runs out of time says so itself.
        status, _, text = server.request("POST", COMPLETIONS, {**LONG, "stream": True})
        assert status == 200 and json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]["type"] == "timeout"
        for begun, least in ((b"", 0.9), (b"POST /v1/completions HTTP/1.1\r\nContent-Le", 0.4)):
            start = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
                s.sendall(begun)
                assert s.recv(1) == b"" and least < time.monotonic() - start < 10
        # A stream that has nothing to say is kept open by comments.
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as watcher:
            watcher.sendall(b"GET /tutti/events HTTP/1.1\r\nHost: a\r\n\r\n")
            received = b""
            while b": ping" not in received:
                received += watcher.recv(65536)
    finally:
        assert server.stop() == 0
