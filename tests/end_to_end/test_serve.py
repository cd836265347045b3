"""The server: OpenAI's own client drives it, and what clients do wrong is answered."""

import concurrent.futures
import json
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy
import openai
import pytest
from random_model import write_prompt_tokens
from server import MODEL, Server
from user import tutti

MAPS = Path(__file__).resolve().parents[2] / "weights" / "smollm2-transfer"


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def tokens_of(server, text):
    return json.loads(server.request("POST", "/tokenize", {"content": text})[2])["tokens"]


def ask(client, text="Name three colours.", **options):
    options = {"max_tokens": 12, "temperature": 0, **options}
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **options)


def test_a_chat_is_what_the_program_writes(client):
    answer = ask(client)
    program = tutti("run", "-m", MODEL, "-p", "Name three colours.", "-n", "12", "--json").json()
    assert answer.choices[0].message.content == program["text"]
    assert answer.choices[0].finish_reason == program["finish_reason"] == "length"
    assert answer.usage.prompt_tokens == program["stats"]["prompt_tokens"]
    assert answer.usage.completion_tokens == 12 and answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == MODEL
    assert answer.usage.model_extra["tutti"]["method"] == "lookup"


def test_a_stream_says_the_same_piece_by_piece(client):
    whole = ask(client, n=2, seed=7, temperature=1.0, logprobs=True, top_logprobs=2)
    chunks = list(ask(client, n=2, seed=7, temperature=1.0, logprobs=True, top_logprobs=2, stream=True,
                      stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1 and {c.object for c in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])
    for i in (0, 1):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        assert own[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in own) == whole.choices[i].message.content
        assert own[-1].finish_reason == whole.choices[i].finish_reason
        tokens = [t for c in own if c.logprobs for t in c.logprobs.content]
        assert [t.model_dump() for t in tokens] == [t.model_dump() for t in whole.choices[i].logprobs.content]
    assert whole.choices[0].message.content != whole.choices[1].message.content


def test_log_probabilities_are_those_of_the_logits(server, client, tmp_path):
    prompt = "The capital of France is"
    got = client.completions.create(model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=3)
    choice = got.choices[0]
    assert choice.text == prompt and "".join(choice.logprobs.tokens) == prompt
    ids = tokens_of(server, prompt)
    out = tmp_path / "logits.f32"
    assert tutti("eval", "logits", "-m", MODEL, "--ids", ",".join(map(str, ids)), "--out", out).code == 0
    logits = numpy.fromfile(out, numpy.float32).reshape(len(ids), -1).astype(numpy.float64)
    table = logits - numpy.log(numpy.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.top_logprobs[0] is None
    for i, token in enumerate(ids[1:]):
        assert choice.logprobs.token_logprobs[i + 1] == pytest.approx(table[i, token], abs=2e-4)
        top = sorted(choice.logprobs.top_logprobs[i + 1].values(), reverse=True)
        assert top == pytest.approx(sorted(table[i], reverse=True)[:3], abs=2e-4)
    assert choice.logprobs.text_offset == [sum(map(len, choice.logprobs.tokens[:i])) for i in range(len(ids))]


def test_completions_take_every_kind_of_prompt(server, client):
    text = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0)
    ids = tokens_of(server, "Once upon a time")
    same = client.completions.create(model=MODEL, prompt=ids, max_tokens=8, temperature=0)
    both = client.completions.create(model=MODEL, prompt=["Once upon a time", "Two plus two"], max_tokens=8, temperature=0, n=2)
    assert same.choices[0].text == text.choices[0].text == both.choices[0].text == both.choices[1].text
    assert [c.index for c in both.choices] == [0, 1, 2, 3] and both.choices[2].text == both.choices[3].text
    assert json.loads(server.request("POST", "/detokenize", {"tokens": ids})[2])["content"] == "Once upon a time"
    echoed = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, echo=True)
    assert echoed.choices[0].text == "Once upon a time" + text.choices[0].text
    streamed = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, echo=True, stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == echoed.choices[0].text


def test_sampling_options_reach_the_engine(server, client):
    stopped = ask(client, stop=["\n", "."], max_tokens=40)
    assert stopped.choices[0].finish_reason == "stop" and "." not in stopped.choices[0].message.content
    assert ask(client, seed=3, temperature=1.3).choices == ask(client, seed=3, temperature=1.3).choices
    first = ask(client, max_tokens=1, logprobs=True).choices[0].logprobs.content[0]
    token = tokens_of(server, first.token)[0]
    assert ask(client, max_tokens=1, logit_bias={str(token): -100}).choices[0].message.content != first.token
    beam = ask(client, extra_body={"method": "beam", "method_options": {"width": 2}})
    assert beam.usage.model_extra["tutti"]["method"] == "beam"


def test_the_operator_names_the_files_of_methods(tmp_path):
    write_prompt_tokens(tmp_path, 576)
    shutil.copytree(MAPS, tmp_path / "maps")
    server = Server("-t", "1", "-o", f"prompt_tokens={tmp_path}", "-o", "rows=8", "-o", f"maps={tmp_path / 'maps'}")
    for file in tmp_path.glob("**/*.*"):
        file.unlink()  # it was read at the start
    try:
        texts = {}
        for method in ("plain", "ppd", "hidden-transfer"):
            answer = ask(server.client(), extra_body={"method": method})
            assert answer.usage.model_extra["tutti"]["method"] == method
            texts[method] = answer.choices[0].message.content
        assert texts["plain"] == texts["ppd"] == texts["hidden-transfer"] != ""
        body = {"messages": [{"role": "user", "content": "a"}], "method": "ppd", "method_options": {"prompt_tokens": "/"}}
        status, error, _ = server.error("POST", "/v1/chat/completions", body)
        assert status == 400 and "tutti serve -o" in error["message"]
    finally:
        assert server.stop() == 0
    for options, message in ((f"prompt_tokens={tmp_path}", "adapter_config.json"), ("magic=1", "no method has it"),
                             ("rows", "key=value")):
        with pytest.raises(AssertionError, match=message):
            Server("-t", "1", "-o", options)


def test_texts_are_what_the_request_says_they_must_be(client):
    schema = {"type": "object", "required": ["name", "age", "tags"], "additionalProperties": False, "properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}}}
    format = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    for method in ("plain", "lookup"):
        answer = ask(client, "Describe a person.", n=6, seed=1, temperature=1.5, max_tokens=100, response_format=format,
                     extra_body={"method": method})
        for choice in answer.choices:
            assert choice.finish_reason == "stop"
            person = json.loads(choice.message.content)
            assert set(person) == {"name", "age", "tags"} and len(person["name"]) <= 12
            assert type(person["age"]) is int and 0 <= person["age"] <= 130
            assert len(person["tags"]) <= 3 and set(person["tags"]) <= {"a", "b"}
    streamed = "".join(c.choices[0].delta.content or "" for c in ask(client, seed=4, temperature=1.2, max_tokens=100,
                                                                    response_format=format, stream=True) if c.choices)
    assert set(json.loads(streamed)) == {"name", "age", "tags"}
    one = ask(client, extra_body={"guided_choice": ["red", "green"]}, temperature=2, seed=1).choices[0].message.content
    assert one in ("red", "green")
    date = ask(client, extra_body={"structured_outputs": {"regex": "20[0-9]{2}-[01][0-9]"}}, max_tokens=30)
    assert re.fullmatch("20[0-9]{2}-[01][0-9]", date.choices[0].message.content)
    sums = ask(client, extra_body={"grammar": 'root ::= n "+" n "=" n\nn ::= [0-9]{1,3}'}, max_tokens=30)
    assert re.fullmatch(r"\d{1,3}\+\d{1,3}=\d{1,3}", sums.choices[0].message.content)
    anything = ask(client, response_format={"type": "json_object"}, max_tokens=400, temperature=0.7, seed=2)
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content), dict)
    for body, words in [({"grammar": "root ::= x"}, "rule x is named"), ({"guided_regex": "(a"}, "not closed"),
                        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "not supported"),
                        ({"grammar": "root ::= [a]", "guided_regex": "b"}, "constrained already"),
                        ({"grammar": "root ::= root"}, "begins with itself")]:
        with pytest.raises(openai.BadRequestError, match=words):
            ask(client, extra_body=body)

def test_sixteen_clients_get_what_each_gets_alone(client):
    jobs = [dict(text=f"Tell me about the number {i}.", max_tokens=6 + i % 5, seed=i, temperature=[0, 0.9][i % 2],
                 n=1 + i % 2) for i in range(16)]
    alone = [[c.message.content for c in ask(client, **job).choices] for job in jobs]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda job: [c.message.content for c in ask(client, **job).choices], reversed(jobs)))
    assert together[::-1] == alone


def test_models_and_health(server, client):
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    status, _, text = server.request("GET", "/health")
    assert status == 200 and json.loads(text) == {"status": "ok"}


@pytest.mark.parametrize("body,status,param,words", [
    ("{", 400, None, "no JSON"),
    ([1], 400, None, "JSON object"),
    ("[" * 100 + "]" * 100, 400, None, "nested deeper"),
    ({"messages": []}, 400, "messages", "at least one"),
    ({"messages": [{"role": "user"}]}, 400, "messages", "content"),
    ({"messages": [{"role": "user", "content": "a"}], "temperature": 3}, 400, "temperature", "from 0 to 2"),
    ({"messages": [{"role": "user", "content": "a"}], "n": 65}, 400, "n", "from 1 to 64"),
    ({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}, 400, "top_logprobs", "logprobs"),
    ({"messages": [{"role": "user", "content": "a"}], "stop": [""]}, 400, "stop", "not empty"),
    ({"messages": [{"role": "user", "content": "a"}], "logit_bias": {"999999999": 1}}, 400, None, "vocabulary"),
    ({"messages": [{"role": "user", "content": "a"}], "method": "magic"}, 400, "method", "magic"),
    ({"messages": [{"role": "user", "content": "a"}], "method_options": {"x": 1}}, 400, None, "has no option x"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}, 400, "tools", "tools[0]"),
    ({"messages": [{"role": "user", "content": "a"}], "tool_choice": "required"}, 400, "tool_choice", "goes with tools"),
    ({"messages": [{"role": "user", "content": "a"}], "functions": [{"name": "f"}]}, 501, "functions", "not supported"),
    ({"messages": [{"role": "user", "content": "a"}], "model": "gpt"}, 404, "model", "not served"),
    ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400, "messages", "do not fit the context of 8192"),
])
def test_what_is_refused(server, body, status, param, words):
    got, error, headers = server.error("POST", "/v1/chat/completions", body)
    assert (got, error["param"]) == (status, param) and words in error["message"], error
    assert set(error) == {"message", "type", "param", "code"} and headers["x-request-id"]


def test_paths_and_methods(server):
    assert server.error("GET", "/nothing")[0] == 404
    status, _, headers = server.error("GET", "/v1/chat/completions")
    assert status == 405 and headers["allow"] == "POST"
    assert server.error("POST", "/v1/completions", "{}", headers={"Content-Type": "text/plain"})[0] == 415
    status, headers, _ = server.request("GET", "/version", headers={"X-Request-Id": "mine-1"})
    assert status == 200 and headers["x-request-id"] == "mine-1"
    assert server.request("GET", "/version", headers={"X-Request-Id": "evil\tid"})[1]["x-request-id"] != "evil\tid"
    assert server.error("POST", "/v1/completions", " " * (9 << 20))[0] == 413
    assert server.error("GET", "/health", headers={"X-Long": "a" * 40000})[0] == 431


def raw(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR) if data.endswith(b"!") else None
        received = b""
        while part := s.recv(65536):
            received += part
    return received


def test_what_is_no_http(server):
    assert raw(server, b"hello there\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server, b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    old = raw(server, b"GET /health HTTP/1.0\r\n\r\n")
    assert old.startswith(b"HTTP/1.0 200") and old.endswith(b'{"status":"ok"}')
    assert raw(server, b"POST /v1/completions HTTP/1.1\r\nContent-Length: 10\r\n\r\nab!") == b""  # cut off
    body = b'{"prompt":"a","max_tokens":1,"temperature":0}'
    head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    # Two requests in one segment, the second of which asks for an answer before its body.
    two = raw(server, head + b"\r\n" + body + head + b"Expect: 100-continue\r\nConnection: close\r\n\r\n" + body)
    assert two.count(b"HTTP/1.1 200") == 2 and b"HTTP/1.1 100 Continue" in two


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_client_that_goes_away_frees_everything(server):
    idle = server.metrics()
    body = json.dumps({"prompt": "Once", "max_tokens": 4000, "stream": True, "ignore_eos": True}).encode()
    for stream in (True, False):
        text = body if stream else body.replace(b'"stream": true', b'"stream": false')
        s = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        if stream:
            received = b""
            while b"data: " not in received:
                received += s.recv(65536)
        wait_until(lambda: server.metrics()[("tutti:num_requests_running", "")] == 1)
        s.close()
        wait_until(lambda: server.metrics()[("tutti:num_requests_running", "")] == 0)
    now = server.metrics()
    aborted = ("tutti:request_success_total", "abort")
    assert now[aborted] == idle[aborted] + 2
    # Pages that stay are the prefix cache's.
    assert now[("vllm:num_requests_waiting", "")] == 0


def test_metrics_count_what_clients_saw(server, client):
    before = server.metrics()
    answers = [ask(client, text=f"Say {i}") for i in range(4)]
    after = server.metrics()
    grown = lambda name: after[(name, "")] - before[(name, "")]
    assert grown("tutti:generation_tokens_total") == sum(a.usage.completion_tokens for a in answers)
    assert grown("vllm:prompt_tokens_total") == sum(a.usage.prompt_tokens for a in answers)
    assert grown("tutti:prefix_cache_hits_total") == sum(a.usage.prompt_tokens_details.cached_tokens for a in answers)
    assert grown("vllm:e2e_request_latency_seconds_count") == 4
    ended = sum(after[("tutti:request_success_total", r)] - before[("tutti:request_success_total", r)] for r in ("stop", "length"))
    assert ended == 4


def test_keys_queues_limits_and_the_end():
    server = Server("-t", "1", "--api-key", "secret", "--max-num-seqs", "1", "--max-queue", "1", "--max-tokens", "5000",
                    "--log-format", "json", "--strict-api", "--grace", "60")
    try:
        assert server.request("GET", "/health")[0] == 200
        for path in ("/v1/models", "/metrics", "/version"):
            assert server.error("GET", path)[0] == 401
        assert server.error("GET", "/v1/models", headers={"Authorization": "Bearer secre"})[0] == 401
        assert server.request("GET", "/v1/models", headers={"x-api-key": "secret"})[0] == 200
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        client = server.client("secret")
        with pytest.raises(openai.BadRequestError, match="5001 is more than this server allows"):
            ask(client, max_tokens=5001)
        with pytest.raises(openai.BadRequestError, match="surprise: is not known"):
            ask(client, extra_body={"surprise": 1})
        # One runs, one waits, the third is refused.
        first = ask(client, max_tokens=150, stream=True, extra_body={"ignore_eos": True})
        next(iter(first))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            second = pool.submit(ask, client, max_tokens=3)
            waiting = lambda: server.request("GET", "/metrics", headers={"x-api-key": "secret"})[2]
            wait_until(lambda: re.search(r"tutti:num_requests_waiting\{[^}]*\} 1\n", waiting()))
            with pytest.raises(openai.RateLimitError) as refused:
                ask(client, max_tokens=3)
            assert refused.value.response.headers["retry-after"]
            # What was accepted is answered although the server has been told to end.
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.request("GET", "/health")[0] == 503)
            with pytest.raises(openai.InternalServerError, match="shutting down"):
                ask(client, max_tokens=3)
            rest = list(first)
            assert rest[-1].choices[0].finish_reason == "length"
            assert second.result().choices[0].finish_reason == "length"
        server.reader.join()
        assert server.process.wait(timeout=60) == 0
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        assert {line["status"] for line in lines} >= {200, 400, 401, 429, 503}
        assert "secret" not in server.log
    finally:
        server.process.kill()


@pytest.mark.parametrize("limits", [["--stream-buffer", "2048", "--write-timeout", "2"],
                                    ["--stream-buffer", "1000000000", "--write-timeout", "1"]])
def test_a_client_that_does_not_read_is_dropped(limits):
    """Its unread answer grows to a limit of bytes or of time; then it costs nothing any more."""
    server = Server("-t", "1", *limits)
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            s.connect(("127.0.0.1", server.port))
            body = json.dumps({"prompt": ["a"] * 32, "max_tokens": 2000, "stream": True, "ignore_eos": True, "logprobs": 20,
                               "n": 2}).encode()
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: server.metrics()[("tutti:request_success_total", "abort")] == 32, 60)
            assert server.metrics()[("tutti:num_requests_running", "")] == 0
        assert ask(server.client(), max_tokens=2).usage.completion_tokens == 2
        assert server.stop() == 0
    finally:
        server.process.kill()


def test_what_the_command_refuses(server, tmp_path):
    taken = tutti("serve", "-m", MODEL, "--port", server.port)
    assert taken.code == 1 and f"127.0.0.1:{server.port}: cannot be listened at" in taken.err
    (tmp_path / "keys").write_text("# none yet\n")
    empty = tutti("serve", "-m", MODEL, "--api-key-file", tmp_path / "keys")
    assert empty.code == 2 and "holds no key" in empty.err
