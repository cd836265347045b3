"""What hostile clients send: bodies, headers, grammars, schemas and names. Each is answered with the right status in bounded
time, beside a stream that goes on; nothing of it begins a line in the log."""

import json
import random
import re
import socket
import threading
import time

import pytest
from server import Server
from test_serve import ask, raw

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SECONDS = 10  # for any one of these, on a machine that does other things, too
DOUBLING = lambda n, body: "\n".join(["root ::= a0"] + [f"a{i} ::= " + body.format(i + 1) for i in range(n)] + [f'a{n} ::= "x"'])


def nested(open, close, n, core=""):
    return open * n + core + close * n


REGEXES = {  # pattern: whether it is one that must be refused; None: either will do
    "(a+)+": False,
    nested("(", ")*", 30, "a"): None,
    nested("(", "){1,100}", 6, "a"): True,
    nested("(", ")", 5000, "a"): True,
    "(a|a|aa|aaa)*b": False,
    "(" + "|".join("a" * i for i in range(1, 300)) + ")*": None,
    "([a-z]*){1,500}x": None,
    ".*.*.*.*.*.*.*.*.*.*x": None,
    "(x?){400}x{400}": None,
    "[a-z ]*[aeiou][a-z ]{400}": None,  # every text leads to other places
    "[ -~]*a[ -~]{300}": None,
    "a{9999}": False,
    "a{100000000}": True,
    "a{99999999999999999999}": True,
    "(([a-z]{9999}){9999}){9999}": True,
    "(a": True,
    "a" * 70000: True,
    "[\\u0000-\\uffff]{3000}": None,
    "(?=a)b": True,
    "(a)\\1": True,
}
GRAMMARS = {
    'root ::= root "a"': True,
    "root ::= a\na ::= b\nb ::= a": True,
    "root ::= missing": True,
    'root ::= "(" root ")" | "x"': False,
    DOUBLING(60, "a{0} a{0}"): None,
    DOUBLING(60, "a{0} | a{0}"): None,
    DOUBLING(60, "a{0}* a{0}*"): None,
    DOUBLING(2000, "a{0}"): None,
    'root ::= ("a"?){2000} "b"': None,
    'root ::= (("a"*)*)*': None,
    'root ::= s s s s s s s s\ns ::= "a" s | "a" | ""': None,
    "root ::= [^\\x00]{9999}": False,
    "root ::= " + nested("(", ")", 3000, '"a"'): True,
    'root ::= "' + "a" * 70000 + '"': True,
    "root ::= \x00\x01": True,
    "": None,
}
REFERENCES = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {"const": 1}}
SCHEMAS = [
    ({"$ref": "#"}, True),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, True),
    ({"$ref": "https://evil.example/schema.json"}, True),
    ({"$ref": "file:///etc/passwd"}, True),
    ({"$defs": REFERENCES, "$ref": "#/$defs/d0"}, None),
    ({"type": "array", "items": {"$ref": "#"}}, None),
    ({"type": "array", "items": {"type": "array", "minItems": 9999, "items": {"type": "array", "minItems": 9999}}, "minItems": 9999}, False),
    ({"type": "array", "minItems": 10 ** 18}, True),
    ({"type": "string", "minLength": 10000, "maxLength": 9}, True),
    ({"type": "integer", "minimum": -10 ** 30, "maximum": 10 ** 30}, None),
    ({"type": "string", "pattern": nested("(", "){1,100}", 6, "a")}, True),
    ({"enum": [f"value {i}" for i in range(4000)]}, None),
    ({"type": "object", "properties": {f"p{i}": {"type": "object", "properties": {f"q{k}": {} for k in range(20)}}
                                       for i in range(100)}}, None),
    ({"type": "object", "required": "x"}, True),
    ({"type": ["string"] * 1000}, None),
    (nested('{"items":', "}", 2000, "{}"), True),
    (nested('{"items":', "}", 6000, "{}"), True),
    ("{", True),
]
BODIES = [  # (bytes, statuses)
    (b"", {400}), (b"\x00", {400}), (b"\xff\xfe{\x00}\x00", {400}), (b"\xef\xbb\xbf{}", {400}), (b"null", {400}), (b"{}{}", {400}),
    (nested("[", "]", 100000).encode(), {400}), (nested('{"a":', "}", 100000, "1").encode(), {400}),
    (b'{"prompt": ' + nested("[", "]", 40).encode() + b"}", {400}),
    (b'{"prompt": "\xff\xfe"}', {400}), (b'{"prompt": "\\ud800", "max_tokens": 1}', {400}),
    (b'{"prompt": "a\\u0000b", "max_tokens": 1}', {200}),
    (b'{"prompt": "a", "max_tokens": 1e999}', {400}), (b'{"prompt": "a", "max_tokens": 18446744073709551616}', {400}),
    (b'{"prompt": "a", "max_tokens": -2}', {400}), (b'{"prompt": "a", "max_tokens": 1.5}', {400}),
    (b'{"prompt": "a", "temperature": NaN}', {400}), (b'{"prompt": "a", "seed": 99999999999999999999}', {400}),
    (b'{"prompt": "a", "max_tokens": 1, "max_tokens": 2, "temperature": 0}', {200, 400}),
    (json.dumps({f"k{i}": i for i in range(5000)}).encode(), {400}),
    (json.dumps({"prompt": "a", "logit_bias": {str(i): 1 for i in range(4000)}, "max_tokens": 1}).encode(), {200}),
    (json.dumps({"prompt": [[1]] * 257}).encode(), {400}), (json.dumps({"prompt": [1] * 10 ** 6}).encode(), {400}),
    (json.dumps({"prompt": [2 ** 40]}).encode(), {400}), (json.dumps({"prompt": "a " * 10 ** 6}).encode(), {400}),
    (json.dumps({"prompt": "a", "stop": ["x"] * 17}).encode(), {400}), (json.dumps({"prompt": "a", "stop": "y" * 1025}).encode(), {400}),
    (json.dumps({"prompt": "a", "stop": ["y" * 1024] * 16, "max_tokens": 1}).encode(), {200}),
    (json.dumps({"prompt": "a", "model": "m" * 10 ** 6}).encode(), {404}),
    (json.dumps({"prompt": "a", "method_options": {"x" * 1000: 1}}).encode(), {400}),
]


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1", "-q", "--log-format", "json")
    yield running
    assert running.stop() == 0


class Witness:
    """A stream beside everything else; `longest`: seconds between two of its pieces."""

    def __init__(self, server):
        self.stream = ask(server.client(), max_tokens=7000, stream=True, extra_body={"ignore_eos": True})
        self.longest, self.pieces, self.done = 0.0, 0, False
        self.thread = threading.Thread(target=self.read)

    def read(self):
        last = None
        for _ in self.stream:
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last if last else 0), now
            self.pieces += 1
            if self.done:
                break
        self.stream.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done = True
        self.thread.join()


def timed(server, *arguments, **options):
    start = time.monotonic()
    status, _, text = server.request(*arguments, **options)
    assert time.monotonic() - start < SECONDS, (arguments, time.monotonic() - start)
    if status != 200:
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"} and len(error["message"]) < 4000, error["message"][:200]
    return status, text


def hostile_constraints():
    yield from (({"guided_regex": text}, refused) for text, refused in REGEXES.items())
    yield from (({"grammar": text}, refused) for text, refused in GRAMMARS.items() if text)
    for schema, refused in SCHEMAS:
        yield {"guided_json": schema}, refused
        if isinstance(schema, dict):
            yield {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}, refused


def test_hostile_grammars_expressions_and_schemas(server):
    """Each twice: the second time it may be known already."""
    with Witness(server) as witness:
        for constraint, refused in hostile_constraints():
            body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 12, "temperature": 1, "seed": 1, **constraint}
            statuses = []
            for _ in range(2):
                status, text = timed(server, "POST", CHAT, body)
                statuses.append(status)
            shown = json.dumps(constraint)[:200]
            assert statuses[0] == statuses[1] and statuses[0] in ({400} if refused else {200} if refused is False else {200, 400}), (
                shown, statuses, text[:500])
        assert witness.thread.is_alive() and witness.pieces > 10
    assert witness.longest < 3, witness.longest


def test_hostile_tools(server):
    for parameters in [s for s, _ in SCHEMAS if isinstance(s, dict)]:
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "tools": [tool], "tool_choice": "required"}
        assert timed(server, "POST", CHAT, body)[0] in (200, 400)
    many = [{"type": "function", "function": {"name": f"f{i}", "description": "d" * 10000}} for i in range(128)]
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "tools": many}
    assert timed(server, "POST", CHAT, body)[0] == 400  # more than the context holds


@pytest.mark.parametrize("index", range(len(BODIES)))
def test_malformed_bodies(server, index):
    data, statuses = BODIES[index]
    status, text = timed(server, "POST", COMPLETIONS, data)
    assert status in statuses, (data[:100], text[:500])


def test_bodies_that_are_nearly_right(server):
    """A right body with some of its bytes changed, left out, doubled."""
    right = json.dumps({"prompt": "Once upon", "max_tokens": 2, "temperature": 0.5, "n": 2, "stop": ["a", "b"], "seed": 3, "logprobs": 2,
                        "logit_bias": {"5": 1.5}, "stream": False, "method": "lookup", "guided_regex": "[a-z ]+"}).encode()
    draw, statuses = random.Random(4), set()
    for _ in range(250):
        data = bytearray(right)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(data))
            data[at:at + draw.randint(0, 4)] = bytes(draw.choices(b'\x00\xff"\\{}[]:,0e-.\x1b a', k=draw.randint(0, 3)))
        statuses.add(timed(server, "POST", COMPLETIONS, bytes(data))[0])
    assert {200, 400} <= statuses <= {200, 400, 404, 501}, statuses


def request_of(*lines, body=b""):
    return b"\r\n".join(line.encode("latin-1") if isinstance(line, str) else line for line in lines) + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"
GET = "GET /health HTTP/1.1"
REQUESTS = [  # (bytes, what the status line may be; b"": closed without an answer)
    (request_of(GET, *["X-A: " + "a" * 100] * 10000), [431]),
    (request_of(GET, *[f"X-{i}: a" for i in range(20000)]), [431]),
    (request_of("GET /" + "a" * 100000 + " HTTP/1.1"), [431]),
    (request_of(GET, "X" * 50000), [400, 431]),
    (request_of(GET, "no colon"), [400]), (request_of(GET, ": empty"), [400]), (request_of(GET, "A\x00B: c"), [400]),
    (request_of(GET, "A: b\x00c"), [400]), (request_of("GET /health HTTP/9.9"), [400, 505]), (request_of("GET  /health HTTP/1.1"), [400]),
    (request_of("GET /health\tHTTP/1.1"), [400]), (request_of("G\x01T /health HTTP/1.1"), [400]), (request_of("BREW /health HTTP/1.1"), [405]),
    (request_of("GET http://elsewhere/health HTTP/1.1"), [200, 404]), (request_of("GET /../../etc/passwd HTTP/1.1"), [404]),
    (request_of("GET /v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1"), [404]), (request_of("GET /%00 HTTP/1.1"), [404]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Content-Length: -1"), [400]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Content-Length: 99999999999999999999999"), [400, 413]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Content-Length: 5000000000"), [413]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Content-Length: 2", "Content-Length: 3", body=b"{}"), [400]),
    # What one reader takes for a body another takes for a request: refused.
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Content-Length: 2", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), [400]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"), [400]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Transfer-Encoding: chunked", body=b"ffffffffffffffff1\r\n{}"), [400]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Transfer-Encoding: chunked", body=b"2;" + b"a" * 200000 + b"\r\n{}"), [400, 431]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, "Transfer-Encoding: chunked", "Connection: close",
                body=b"2\r\n{}\r\n0\r\n\r\n"), [400]),
    (request_of("POST " + COMPLETIONS + " HTTP/1.1", JSON, body=b"{}"), [400, 411]),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), [400]), (bytes(1000), [400]), (b"\r\n" * 1000 + b"x\r\n\r\n", [400]),
]


@pytest.mark.parametrize("index", range(len(REQUESTS)))
def test_what_is_hardly_http(server, index):
    data, statuses = REQUESTS[index]
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused while it was sent
        received = s.recv(65536)
    assert time.monotonic() - start < SECONDS
    assert received.startswith(b"HTTP/1."), received
    assert int(received.split()[1]) in statuses, received[:300]
    assert server.request("GET", "/health")[0] == 200


EVIL = ["a\nINFO: all is well", "a\r\nSet-Cookie: x=1", "\x1b[2J\x1b]0;title\x07", "\u2028\u0085\u202e", '"}\n{"status":200,"path":"/fake"}']


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_that_clients_send_begins_a_line_of_the_log(format):
    server = Server("-t", "1", "--log-format", format)
    begun, asked = len(server.log.splitlines()), 0
    try:
        for evil in EVIL:
            for body in ({"prompt": "a", "model": evil}, {"prompt": "a", "method": evil}, {"prompt": "a", evil: 1, "max_tokens": 1},
                         {"prompt": "a", "method_options": {evil: 1}}, {"prompt": "a", "guided_regex": "(" + evil},
                         {"prompt": "a", "grammar": evil}, {"prompt": "a", "logit_bias": {evil: 1}}, {"prompt": "a", "user": evil}):
                status, headers, _ = server.request("POST", COMPLETIONS, body)
                assert status in (200, 400, 404) and "set-cookie" not in headers
                asked += 1
            data = evil.encode()
            one_line = data.replace(b"\r", b"").replace(b"\n", b"")
            for lines in ((b"GET /" + one_line + b" HTTP/1.1",), (b"GET /a%0d%0aINFO:%1b[2J HTTP/1.1",), (b"GET /v1/models/" + one_line + b" HTTP/1.1",),
                          (b"GET /health HTTP/1.1", b"X-Request-Id: " + one_line), (b"GET /health HTTP/1.1", b"User-Agent: " + one_line),
                          (one_line.replace(b" ", b"") + b" /health HTTP/1.1",)):
                answer = raw(server, request_of(*lines, b"Connection: close"))
                assert answer.startswith(b"HTTP/1.1 ") and b"\x1b" not in answer.split(b"\r\n\r\n")[0]
                assert b"set-cookie" not in answer.lower().split(b"\r\n\r\n")[0]
    finally:
        assert server.stop() == 0
    lines = server.log.splitlines()[begun:]  # str.splitlines knows U+2028 and U+0085 as ends of lines, too
    assert len([line for line in lines if COMPLETIONS in line]) == asked
    for line in lines:
        assert re.fullmatch(r"[ -~]*", line), repr(line)
        if line.startswith("stopping:"):
            continue
        if format == "json":
            assert set(json.loads(line)) == {"time", "id", "method", "path", "status", "seconds"} and json.loads(line)["path"] != "/fake"
        else:
            assert re.fullmatch(r'"[^"]*" "(\\.|[^"\\])*" \d{3} \d+\.\d{3} s, [\w.-]+', line), line
