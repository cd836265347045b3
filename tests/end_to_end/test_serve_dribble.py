"""Clients that dribble bytes: the limits of time hold over TLS as in clear text, whatever a client sends meanwhile."""

import json
import socket
import ssl
import time

import pytest
import random_model
from server import Server
from test_serve_options import RawTls, completion_request, tls_files

LIMITS = ("--read-timeout", "2", "--idle-timeout", "3", "--write-timeout", "2", "--timeout", "3")


@pytest.fixture(scope="module", params=["clear", "TLS"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dribble")
    model = random_model.write(folder / "random.gguf")
    certificate, key = tls_files(folder)
    secret = request.param == "TLS"
    running = Server("-q", "-t", "1", *LIMITS, *(("--tls-cert", certificate, "--tls-key", key) if secret else ()),
                     model=model, scheme="https" if secret else "http")
    running.trust = ssl.create_default_context(cafile=certificate) if secret else None
    yield running
    assert running.stop() == 0


class Clear:
    """The same as RawTls without TLS."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def send(self, data):
        self.socket.sendall(data)


def client(server):
    return RawTls(server.port, server.trust) if server.trust else Clear(server.port)


def record(raw, data):
    """The bytes that carry `data`."""
    if not isinstance(raw, RawTls):
        return data
    raw.tls.write(data)
    return raw.outgoing.read()


def seconds_until_closed(raw, data, least, most):
    """A byte each second, and nothing is read: until the connection takes no more."""
    start = time.monotonic()
    try:
        for byte in data:
            raw.socket.sendall(bytes([byte]))
            time.sleep(1)
            if time.monotonic() - start > most:
                break
    except (BrokenPipeError, ConnectionResetError):
        pass
    seconds = time.monotonic() - start
    assert least <= seconds <= most, seconds


def get(path, *headers):
    return (f"GET {path} HTTP/1.1\r\nHost: a\r\n" + "".join(h + "\r\n" for h in headers) + "\r\n").encode()


def test_in_the_header(server):
    """Two seconds for a request, whatever comes."""
    raw = client(server)
    raw.send(b"GET /health HTTP/1.1\r\n")
    seconds_until_closed(raw, record(raw, b"X-Long: " + b"a" * 200), 1.9, 8)


def test_idle(server):
    """Over TLS the part of a record is nothing yet: three seconds. In clear a byte begins a request: two."""
    raw = client(server)
    raw.send(get("/health"))
    raw.socket.recv(65536)
    seconds_until_closed(raw, record(raw, b"GET /" + b"a" * 200), 1.9, 12)


def test_while_it_is_answered(server):
    """The answer, an error after three seconds, goes out; then the connection is idle."""
    raw = client(server)
    raw.send(completion_request({"prompt": "Once", "max_tokens": 3900, "n": 32, "temperature": 1, "ignore_eos": True}))
    seconds_until_closed(raw, record(raw, b"GET /" + b"a" * 200), 3.9, 20)


def test_while_an_answer_waits_for_it(server):
    """An answer that is not read has two seconds, in pieces or whole."""
    text = "a " * (1 << 20)
    body = json.dumps({"content": text, "with_pieces": True}).encode()
    raw = client(server)
    raw.send(b"POST /tokenize HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    seconds_until_closed(raw, record(raw, b"GET /" + b"a" * 200), 1.9, 40)
