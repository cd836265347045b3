"""One table of options: flags, variables, a config file, completion, and the OpenAPI document of the server."""

import http.client
import json
import re
import socket
import ssl
import subprocess
import time
import warnings

import httpx2
import openai
import pytest
from server import MODEL, Server
from test_serve import ask, wait_until
from user import tutti


def test_a_config_file_stands_behind_flags_and_variables(tmp_path, monkeypatch):
    config = tmp_path / "serve.json"
    config.write_text(json.dumps({"served_model_name": ["one", "two"], "max-queue": 7, "parallel": 3, "threads": 1,
                                  "api-key": "secret", "strict-api": True, "log_format": "json"}))
    monkeypatch.setenv("TUTTI_LOG_FORMAT", "text")
    server = Server("--config", config, "--max-queue", "5")
    try:
        key = {"x-api-key": "secret"}
        assert "3 run at a time, 5 more may wait" in server.log
        assert server.error("GET", "/v1/models")[0] == 401
        assert json.loads(server.request("GET", "/v1/models/two", headers=key)[2])["id"] == "one"
        assert server.error("POST", "/v1/completions", {"prompt": "a", "x": 1}, headers=key)[0] == 400
    finally:
        assert server.stop() == 0
    assert '"GET" "/v1/models/two" 200' in server.log  # the variable's format
    monkeypatch.setenv("TUTTI_CONFIG", str(config))
    monkeypatch.delenv("TUTTI_LOG_FORMAT")
    # What a flag says of an option that may be repeated is not added to what the file says.
    server = Server("-a", "three", "--api-key=new")
    try:
        assert server.error("GET", "/v1/models", headers=key)[0] == 401
        models = json.loads(server.request("GET", "/v1/models", headers={"x-api-key": "new"})[2])
        assert [m["id"] for m in models["data"]] == ["three"]
        assert server.error("GET", "/v1/models/one", headers={"x-api-key": "new"})[0] == 404
    finally:
        assert server.stop() == 0
    assert '"path":"/v1/models"' in server.log.replace(" ", "")


@pytest.mark.parametrize("text, words", [
    ("{", "is not JSON"), ("[]", "JSON object"), ('{"porcelain": 1}', '"porcelain" is no option'),
    ('{"strict-api": 1}', "true or false"), ('{"port": {}}', "must be a string"), ('{"port": [1, 2]}', "one value"),
    ('{"port": "many"}', "--port"), ('{"config": "x"}', "is no option"),
])
def test_a_config_file_that_is_wrong(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text)
    done = tutti("serve", "-m", MODEL, "--config", path)
    assert done.code == 2 and words in done.err and done.out == "", done.err
    assert words == "--port" or str(path) in done.err
    assert tutti("serve", "-m", MODEL, "--config", tmp_path / "none.json").code == 1


def complete(*words):
    script = tutti("completion", "bash").out
    line = f'COMP_WORDS=({" ".join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _tutti; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script + line], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_completion():
    assert {"run", "serve", "completion"} <= set(complete("tutti", ""))
    assert complete("tutti", "ser") == ["serve"]
    assert complete("tutti", "serve", "--max-q") == ["--max-queue"]
    assert complete("tutti", "serve", "--log-format", "") == ["text", "json"]
    assert complete("tutti", "serve", "--port", "1", "--log-f") == ["--log-format"]
    assert complete("tutti", "eval", "tas") == ["tasks"]
    assert complete("tutti", "serve", "-m", "smo") == []  # left to file names
    # Every flag that --help knows.
    help = tutti("serve", "--help").out
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", help.split("Options:")[1])) - {"--help"} <= set(complete("tutti", "serve", "--"))
    assert tutti("completion", "fish").code == 2


def test_the_document_of_the_server():
    server = Server("-t", "1", "--api-key", "k", "--max-choices", "5")
    try:
        assert server.error("GET", "/openapi.json")[0] == 401
        status, _, text = server.request("GET", "/openapi.json", headers={"x-api-key": "k"})
        document = json.loads(text)
    finally:
        assert server.stop() == 0
    assert document["openapi"].startswith("3.1") and document["info"]["version"]
    chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["required"] == ["messages"]
    assert chat["properties"]["n"] == {"type": "integer", "minimum": 1, "maximum": 5}
    assert chat["properties"]["temperature"] == {"type": "number", "minimum": 0.0, "maximum": 2.0}
    assert "tools" in chat["properties"] and "suffix" not in chat["properties"]
    # No field is told without saying what it may be.
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] and operation["responses"]["200"]
            body = operation.get("requestBody", {"content": {"application/json": {"schema": {"properties": {}}}}})
            for name, schema in body["content"]["application/json"]["schema"]["properties"].items():
                assert schema, (path, name)
    assert document["paths"]["/health"]["get"]["security"] == []
    # Its options are those of --help, with their variables and defaults, and not what this one was given.
    options = {o["name"]: o for o in document["x-server-options"]}
    help = tutti("serve", "--help").out
    for option in options.values():
        assert all(flag in help for flag in option["flags"])
        assert "environment" not in option or option["environment"] in help
    assert options["max-choices"]["default"] == "64" and "default" not in options["api-key"]
    assert options["log-format"]["choices"] == ["text", "json"]


def test_keys_are_asked_for_before_the_body_is_read():
    server = Server("-t", "1", "--api-key", "k", "--cors-origin", "https://page.example")
    try:
        # Nor is one read where nothing is, or where no key is needed, as nothing there takes a body.
        for line in (b"POST /v1/completions", b"OPTIONS /nothing", b"POST /health", b"PUT /"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
                s.sendall(line + b" HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
                          b"Expect: 100-continue\r\n\r\n")
                answer = s.recv(65536)
            assert answer.startswith(b"HTTP/1.1 401") and b"x-request-id" in answer and b"invalid_api_key" in answer, line
            # A page must be able to read that its key is wrong.
            assert b"access-control-allow-origin: https://page.example\r\n" in answer
        assert server.request("GET", "/health")[0] == 200
        assert server.request("OPTIONS", "/v1/completions")[0] == 204
    finally:
        assert server.stop() == 0
    assert '"POST" "/v1/completions" 401' in server.log


def tls_files(folder):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    return certificate, key


def test_tls(tmp_path):
    certificate, key = tls_files(tmp_path)
    server = Server("-t", "1", "--tls-cert", certificate, "--tls-key", key, scheme="https")
    trust = ssl.create_default_context(cafile=certificate)
    try:
        client = openai.OpenAI(base_url=f"https://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0,
                               http_client=httpx2.Client(verify=trust))
        whole = ask(client, max_tokens=8)
        pieces = [c.choices[0].delta.content or "" for c in ask(client, max_tokens=8, stream=True)]
        assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 2
        big = "word " * 3000  # more than one record, and an answer after a body that came in pieces
        assert client.completions.create(model=MODEL, prompt=big, max_tokens=1).usage.prompt_tokens > 2500
        # A body that is refused: the answer arrives all the same.
        for length, headers, expected in ((9 << 20, {}, 413), (64, {"X-Long": "a" * 40000}, 431)):
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=trust)
            connection.request("POST", "/v1/completions", " " * length, {"Content-Type": "application/json", **headers})
            assert connection.getresponse().status == expected
            connection.close()
        # No TLS, and an old one.
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert not s.recv(65536).startswith(b"HTTP/1.1 200")
        old = ssl.create_default_context(cafile=certificate)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")  # else Python refuses by itself
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match="(?i)alert.protocol.version"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
                old.wrap_socket(s, server_hostname="127.0.0.1")
        # A client that goes away frees everything, streaming or not.
        gauge = lambda name: float(re.search(rf"tutti:{name}\{{[^}}]*\}} (\d+)", httpx2.get(
            f"https://127.0.0.1:{server.port}/metrics", verify=trust).text)[1])
        for stream in (True, False):
            body = json.dumps({"prompt": "Once", "max_tokens": 4000, "stream": stream, "ignore_eos": True}).encode()
            s = trust.wrap_socket(socket.create_connection(("127.0.0.1", server.port), timeout=30), server_hostname="127.0.0.1")
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: gauge("num_requests_running") == 1)
            s.close()
            wait_until(lambda: gauge("num_requests_running") == 0)
    finally:
        assert server.stop() == 0


class RawTls:
    """A TLS client that can end its side of the connection, by TLS's own word or by TCP's alone, and still read."""

    def __init__(self, port, trust):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trust.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        self.until_done(self.tls.do_handshake)

    def flush(self):
        if data := self.outgoing.read():
            self.socket.sendall(data)

    def until_done(self, step):
        while True:
            try:
                result = step()
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                data = self.socket.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def end(self, by_tls):
        if by_tls:
            with pytest.raises(ssl.SSLWantReadError):
                self.tls.unwrap()
            self.flush()
        else:
            self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self):
        """Records behind our own goodbye are read all the same."""
        text = b""
        while True:
            try:
                data = self.until_done(lambda: self.tls.read(65536))
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return text
            if not data:
                return text
            text += data


def completion_request(body, *headers):
    data = json.dumps(body).encode()
    return (f"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            + "".join(h + "\r\n" for h in headers) + "\r\n").encode() + data


def test_tls_connections_carry_many_requests(tmp_path):
    certificate, key = tls_files(tmp_path)
    server = Server("-t", "1", "--tls-cert", certificate, "--tls-key", key, scheme="https")
    trust = ssl.create_default_context(cafile=certificate)
    try:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=trust)
        connection.connect()
        first, texts = connection.sock, []
        for stream in (False, True, False, True):
            body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "stream": stream}
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse().read().decode()
            assert connection.sock is first  # not closed, not opened again
            pieces = [json.loads(line[6:]) for line in answer.split("\n") if line.startswith("data: {")] if stream else [json.loads(answer)]
            texts.append("".join(p["choices"][0]["text"] for p in pieces))
        assert len(set(texts)) == 1 and texts[0]
        connection.close()
        # What is sent ahead, while an answer is made, is answered next: requests in one piece, and one that is cut in two.
        raw = RawTls(server.port, trust)
        one = {"prompt": "Once", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
        last = completion_request({**one, "max_tokens": 1}, "Connection: close")
        raw.send(completion_request(one) + b"GET /health HTTP/1.1\r\n\r\n")
        time.sleep(0.05)
        raw.send(b"GET /version HTTP/1.1\r\n\r\n" + last[:70])
        time.sleep(0.05)
        raw.send(last[70:])
        answers = raw.read_to_end()
        assert answers.count(b"HTTP/1.1 200 OK") == 4
        places = [answers.index(word) for word in (b'"completion_tokens":40', b'"status":"ok"', b'"version"', b'"completion_tokens":1,')]
        assert places == sorted(places)
        # A client that has said all that it will say gets its answer.
        for by_tls in (True, False):
            raw = RawTls(server.port, trust)
            raw.send(completion_request(one))
            raw.end(by_tls)
            assert b'"completion_tokens":40' in raw.read_to_end(), by_tls
    finally:
        assert server.stop() == 0


def test_tls_that_is_refused_or_silent(tmp_path):
    certificate, key = tls_files(tmp_path)
    server = Server("-t", "1", "--tls-cert", certificate, "--tls-key", key, "--api-key", "k", "--read-timeout", "1", scheme="https")
    trust = ssl.create_default_context(cafile=certificate)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as silent:
            assert silent.recv(1) == b""  # the server hangs up
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=trust)
        connection.request("POST", "/v1/completions", " " * (4 << 20), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 401
        connection.close()
    finally:
        assert server.stop() == 0


def test_what_tls_needs(tmp_path):
    certificate, key = tls_files(tmp_path)
    done = tutti("serve", "-m", MODEL, "--tls-cert", certificate)
    assert done.code == 2 and "go together" in done.err
    (tmp_path / "other.pem").write_text("nothing")
    done = tutti("serve", "-m", MODEL, "--port", "0", "--tls-cert", certificate, "--tls-key", tmp_path / "other.pem")
    assert done.code == 1 and "other.pem: cannot be used for TLS" in done.err, done.err
