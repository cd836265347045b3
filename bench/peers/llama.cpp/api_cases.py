"""What a client asks of a server, and what of the answer it goes by: the same for every server of OpenAI's API.

A case is a function of a Client that returns what it saw, as JSON: statuses, the fields of answers and their types, and facts
(does a seed reproduce, is a stream its whole answer). Texts of the model are not compared: arithmetic differs."""

import contextlib
import http.client
import json
import socket
import time

import openai

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
JSON = {"Content-Type": "application/json"}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"],
          "additionalProperties": False}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def kind(value):
    return {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null", list: "array", dict: "object"}[type(value)]


def fields(value, path=""):
    """Paths of the fields of an answer with the types that they have; entries of arrays share a path."""
    found = {}
    if isinstance(value, dict):
        for name, inner in value.items():
            for where, types in fields(inner, f"{path}.{name}" if path else name).items():
                found[where] = sorted(set(found.get(where, [])) | set(types))
        return found | ({path: ["object"]} if path and not value else {})
    if isinstance(value, list):
        for inner in value:
            for where, types in fields(inner, path + "[]").items():
                found[where] = sorted(set(found.get(where, [])) | set(types))
        return found if value else {path: ["empty array"]}
    return {path: [kind(value)]}


class Client:
    def __init__(self, port, model, key=None):
        self.port, self.model, self.key = port, model, key
        self.openai = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key or "none", max_retries=0, timeout=120)

    def send(self, method, path, body=None, headers=JSON):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, text

    def shape(self, method, path, body=None, headers=JSON):
        status, got, text = self.send(method, path, body, headers)
        seen = {"status": status, "content type": got.get("content-type", "none").split(";")[0]}
        if "event-stream" in seen["content type"]:
            events = [e for e in text.split("\n\n") if e.strip() and not e.startswith(":")]
            seen["ends with [DONE]"] = events[-1].strip() == "data: [DONE]"
            read = [json.loads(e.partition("data:")[2]) for e in events if "[DONE]" not in e]
            return seen | {"fields of events": fields(read), "events without choices": sum(e.get("choices") == [] for e in read)}
        with contextlib.suppress(ValueError):
            answer = json.loads(text)
            name = "fields of the error" if status >= 400 else "fields"
            seen[name] = fields(answer)
            if status >= 400 and isinstance(answer.get("error"), dict):
                seen["error type"] = answer["error"].get("type")
        return seen

    def chat(self, **more):
        return self.shape("POST", CHAT, {"model": self.model, "messages": [{"role": "user", "content": "Name a colour."}],
                                         "max_tokens": 8, "temperature": 0, **more})

    def completion(self, prompt="The capital of France is", **more):
        return self.shape("POST", COMPLETIONS, {"model": self.model, "prompt": prompt, "max_tokens": 4, "temperature": 0, **more})

    def ask(self, **more):
        """By OpenAI's package, or the error's status."""
        known = {k: v for k, v in more.items() if k in ("n", "seed", "stream", "stop", "logprobs", "top_logprobs", "tools", "tool_choice",
                                                        "response_format", "stream_options", "temperature")}
        try:
            return self.openai.chat.completions.create(
                model=self.model, messages=more.get("messages", [{"role": "user", "content": "Name a colour."}]),
                max_tokens=more.get("max_tokens", 8), **{"temperature": 0, **known}, extra_body=more.get("extra"))
        except openai.APIStatusError as error:
            return {"status": error.status_code}

    def raw(self, data, half_close=False, seconds=20):
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as s:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(OSError):
                while part := s.recv(65536):
                    received += part
        return received


def status_of(answer):
    return {"status line": answer.split(b"\r\n")[0].decode(errors="replace")[:12].strip() or "closed without an answer"}


def tokens_of(c, **more):
    status, _, text = c.send("POST", CHAT, {"model": c.model, "messages": message(), "temperature": 0, **more})
    return {"status": status, "tokens": json.loads(text)["usage"]["completion_tokens"] if status == 200 else 0}


def seeds(c):
    def text(**more):
        answer = c.ask(temperature=1, max_tokens=24, **more)
        return answer if isinstance(answer, dict) else [x.message.content for x in answer.choices]
    alone = text(seed=5)
    others = [c.openai.chat.completions.create(model=c.model, messages=[{"role": "user", "content": f"Count to {i}."}], max_tokens=60,
                                               stream=True) for i in range(3)]
    for stream in others:
        next(iter(stream))
    beside = text(seed=5)
    for stream in others:
        list(stream)
    two = text(seed=5, n=2)
    return {"the same again": text(seed=5) == alone, "the same beside three other streams": beside == alone,
            "choices of one seed differ": isinstance(two, list) and len(set(two)) == 2}


def stream_is_whole(c):
    whole = c.ask(max_tokens=20)
    pieces = c.ask(max_tokens=20, stream=True)
    return {"the stream's text is the whole answer's": "".join(x.choices[0].delta.content or "" for x in pieces if x.choices)
            == whole.choices[0].message.content}


def long_body(c):
    return c.chat(messages=[{"role": "user", "content": "word " * 9000}])


def cancelled(c):
    """Whether the work of a client that went away still stands in another's way."""
    body = json.dumps({"model": c.model, "prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": False}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    start = time.monotonic()
    c.completion(max_tokens=8)
    alone = time.monotonic() - start
    for _ in range(12):
        with socket.create_connection(("127.0.0.1", c.port)) as s:
            s.sendall(head + body)
            time.sleep(0.05)
    start = time.monotonic()
    c.completion("Two and two are", max_tokens=8)
    return {"twelve clients that went away hold up a thirteenth": time.monotonic() - start > 3 + 5 * alone}


def half_closed(c):
    body = json.dumps({"model": c.model, "prompt": "Once", "max_tokens": 8}).encode()
    head = (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n" % len(body))
    return {"a client that has closed its sending side is answered": b" 200 " in c.raw(head + body, half_close=True)}


def enforced(c, **more):
    answer = c.ask(max_tokens=60, **more)
    if isinstance(answer, dict):
        return answer
    choice = answer.choices[0]
    text = choice.message.content or ""
    calls = [call.function for call in choice.message.tool_calls or []]
    with contextlib.suppress(ValueError):
        return {"finish": choice.finish_reason, "content is JSON": bool(text) and isinstance(json.loads(text), dict),
                "calls": [call.name for call in calls], "arguments are JSON": [isinstance(json.loads(x.arguments), dict) for x in calls]}
    return {"finish": choice.finish_reason, "content is JSON": False, "calls": [call.name for call in calls]}


def message(**fields):
    return [{"role": "user", "content": "Name a colour.", **fields}]


CASES = {
    "models": lambda c: c.shape("GET", "/v1/models"),
    "one model": lambda c: c.shape("GET", f"/v1/models/{c.model}"),
    "health": lambda c: c.shape("GET", "/health"),
    "version": lambda c: c.shape("GET", "/version"),
    "metrics": lambda c: c.shape("GET", "/metrics"),
    "tokenize": lambda c: c.shape("POST", "/tokenize", {"content": "Grüße", "add_special": True, "with_pieces": True}),
    "detokenize": lambda c: c.shape("POST", "/detokenize", {"tokens": [504, 3575]}),
    "chat": lambda c: c.chat(),
    "chat, streamed": lambda c: c.chat(stream=True),
    "chat, streamed with usage": lambda c: c.chat(**USAGE),
    "chat, two choices": lambda c: c.chat(n=2, temperature=1, seed=1),
    "chat, two choices streamed": lambda c: c.chat(n=2, temperature=1, seed=1, stream=True),
    "chat, log-probabilities": lambda c: c.chat(logprobs=True, top_logprobs=2),
    "chat, log-probabilities streamed": lambda c: c.chat(logprobs=True, top_logprobs=2, stream=True),
    "chat, seeds": seeds,
    "chat, a stream is its whole": stream_is_whole,
    "chat, stop strings": lambda c: c.chat(stop=["a", "e"]),
    "chat, seventeen stop strings": lambda c: c.chat(stop=list("abcdefghijklmnopq")),
    "chat, an empty stop string": lambda c: c.chat(stop=[""]),
    "chat, max_completion_tokens": lambda c: tokens_of(c, max_completion_tokens=3),
    "chat, two limits that differ": lambda c: tokens_of(c, max_completion_tokens=3, max_tokens=64),
    "chat, max_tokens 0": lambda c: c.chat(max_tokens=0),
    "chat, max_tokens -1": lambda c: c.chat(max_tokens=-1, stop=["a", "e", "i"]),
    "chat, temperature 3": lambda c: c.chat(temperature=3),
    "chat, temperature below 0": lambda c: c.chat(temperature=-1),
    "chat, top_p 2": lambda c: c.chat(top_p=2),
    "chat, n 0": lambda c: c.chat(n=0),
    "chat, n 1000": lambda c: c.chat(n=1000),
    "chat, presence_penalty 5": lambda c: c.chat(presence_penalty=5),
    "chat, logit_bias": lambda c: c.chat(logit_bias={"504": -100}),
    "chat, logit_bias of no token": lambda c: c.chat(logit_bias={"99999999": 1}),
    "chat, top_logprobs without logprobs": lambda c: c.chat(top_logprobs=2),
    "chat, top_logprobs 50": lambda c: c.chat(logprobs=True, top_logprobs=50),
    "chat, stream_options without stream": lambda c: c.chat(stream_options={"include_usage": True}),
    "chat, no messages": lambda c: c.chat(messages=[]),
    "chat, messages missing": lambda c: c.shape("POST", CHAT, {"model": c.model}),
    "chat, role missing": lambda c: c.chat(messages=[{"content": "a"}]),
    "chat, unknown role": lambda c: c.chat(messages=[{"role": "wizard", "content": "a"}]),
    "chat, developer's message": lambda c: c.chat(messages=[{"role": "developer", "content": "Be brief."}, *message()]),
    "chat, content missing": lambda c: c.chat(messages=[{"role": "user"}]),
    "chat, parts of text": lambda c: c.chat(messages=message(content=[{"type": "text", "text": "Name "}, {"type": "text", "text": "a colour."}])),
    "chat, an image": lambda c: c.chat(messages=message(content=[{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}])),
    "chat, a local file as image": lambda c: c.chat(messages=message(content=[{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])),
    "chat, unknown field": lambda c: c.chat(surprise=1),
    "chat, wrong type": lambda c: c.chat(max_tokens="many"),
    "chat, unknown model": lambda c: c.chat(model="gpt-4"),
    "chat, no model": lambda c: c.chat(model=None),
    "chat, longer than the context": long_body,
    "chat, reasoning_effort and others": lambda c: c.chat(reasoning_effort="low", user="me", store=False, metadata={"a": "b"}),
    "chat, functions (old)": lambda c: c.chat(functions=[{"name": "f"}]),
    "JSON object": lambda c: enforced(c, response_format={"type": "json_object"}),
    "JSON schema": lambda c: enforced(c, response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}),
    "JSON schema of another keyword": lambda c: enforced(c, response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"not": {"type": "string"}}}}),
    "json_schema (llama.cpp's)": lambda c: enforced(c, extra={"json_schema": SCHEMA}),
    "grammar (GBNF)": lambda c: enforced(c, extra={"grammar": 'root ::= "{\\"n\\": " [0-9] "}"'}),
    "grammar that is wrong": lambda c: c.chat(grammar="root ::= missing"),
    "guided_regex (vLLM's)": lambda c: enforced(c, extra={"guided_regex": '\\{"n": [0-9]\\}'}),
    "tools, auto": lambda c: enforced(c, tools=[TOOL]),
    "tools, required": lambda c: enforced(c, tools=[TOOL], tool_choice="required"),
    "tools, named": lambda c: enforced(c, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_weather"}}),
    "tools, none": lambda c: enforced(c, tools=[TOOL], tool_choice="none"),
    "tools, required without tools": lambda c: c.chat(tool_choice="required"),
    "tools, required: fields": lambda c: c.chat(tools=[TOOL], tool_choice="required", max_tokens=60),
    "tools, required: fields streamed": lambda c: c.chat(tools=[TOOL], tool_choice="required", max_tokens=60, stream=True),
    "completions": lambda c: c.completion(),
    "completions, streamed with usage": lambda c: c.completion(**USAGE),
    "completions, token ids": lambda c: c.completion([504, 3575]),
    "completions, two prompts": lambda c: c.completion(["One", "Two"]),
    "completions, empty prompt": lambda c: c.completion(""),
    "completions, prompt missing": lambda c: c.shape("POST", COMPLETIONS, {"model": c.model}),
    "completions, echo": lambda c: c.completion(echo=True),
    "completions, log-probabilities": lambda c: c.completion(logprobs=2),
    "completions, prompt scored": lambda c: c.completion(echo=True, logprobs=1, max_tokens=0),
    "completions, suffix": lambda c: c.completion(suffix="."),
    "completions, best_of": lambda c: c.completion(best_of=3),
    "completions, a token that is none": lambda c: c.completion([10 ** 7]),
    "no path": lambda c: c.shape("GET", "/v1/nothing"),
    "wrong method": lambda c: c.shape("GET", CHAT),
    "HEAD": lambda c: {"status": c.send("HEAD", "/health")[0]},
    "OPTIONS of a browser": lambda c: {"status": c.send("OPTIONS", CHAT, headers={"Origin": "http://a.example"})[0], "origin allowed":
                                       c.send("GET", "/health", headers={"Origin": "http://a.example"})[1].get("access-control-allow-origin")},
    "no content type": lambda c: c.shape("POST", COMPLETIONS, b'{"prompt": "a", "max_tokens": 1}', headers={}),
    "no JSON": lambda c: c.shape("POST", CHAT, "{"),
    "an array for a body": lambda c: c.shape("POST", CHAT, [1]),
    "bytes that are no UTF-8": lambda c: c.shape("POST", COMPLETIONS, b'{"prompt": "\xff\xfe", "max_tokens": 1}'),
    "a body nested 2,000 deep": lambda c: c.shape("POST", COMPLETIONS, '{"prompt": "a", "max_tokens": 1, "x": ' + "[" * 2000 + "]" * 2000 + "}"),
    "a body of 9 MiB": lambda c: c.shape("POST", COMPLETIONS, '{"prompt": "a", "max_tokens": 1, "x": "' + "a" * (9 << 20) + '"}'),
    "a header of 40 KB": lambda c: {"status": c.send("GET", "/health", headers={"X-Long": "a" * 40000})[0]},
    "request id": lambda c: {"echoed": c.send("GET", "/health", headers={"X-Request-Id": "mine"})[1].get("x-request-id")},
    "HTTP/1.0": lambda c: status_of(c.raw(b"GET /health HTTP/1.0\r\n\r\n")),
    "no HTTP": lambda c: status_of(c.raw(b"hello\r\n\r\n", seconds=8)),
    "two lengths": lambda c: status_of(c.raw(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
                                             b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", seconds=8)),
    "a length and chunks": lambda c: status_of(c.raw(
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", seconds=8)),
    "half closed": half_closed,
    "clients that go away": cancelled,
}
VECTORS = {  # the peer needs a flag for them, with which it does nothing else
    "vectors": lambda c: c.shape("POST", EMBEDDINGS, {"model": c.model, "input": ["One", "Two"]}),
    "vectors, base64": lambda c: c.shape("POST", EMBEDDINGS, {"model": c.model, "input": "One", "encoding_format": "base64"}),
    "vectors, token ids": lambda c: c.shape("POST", EMBEDDINGS, {"model": c.model, "input": [504, 3575]}),
    "vectors, fewer dimensions": lambda c: c.shape("POST", EMBEDDINGS, {"model": c.model, "input": "One", "dimensions": 64}),
    "vectors, empty input": lambda c: c.shape("POST", EMBEDDINGS, {"model": c.model, "input": ""}),
}
KEYED = {  # with --api-key
    f"without a key: {method} {path}": lambda c, m=method, p=path: {"status": c.send(m, p, {} if m == "POST" else None)[0]}
    for method, path in [("GET", "/health"), ("GET", "/"), ("GET", "/v1/models"), ("GET", "/metrics"), ("POST", CHAT), ("POST", "/tokenize"),
                         ("POST", EMBEDDINGS), ("GET", "/nothing")]
} | {
    "a wrong key": lambda c: c.shape("GET", "/v1/completions", headers={"Authorization": "Bearer no"}),
    "x-api-key": lambda c: {"status": c.send("GET", "/v1/models", headers={"x-api-key": c.key})[0]},
    "Bearer": lambda c: {"status": c.send("GET", "/v1/models", headers={"Authorization": f"Bearer {c.key}"})[0]},
}
