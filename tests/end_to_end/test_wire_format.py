"""The wire format, byte for byte: recorded requests and their answers (fixtures/*.jsonl), of every endpoint and form of stream.

    TUTTI=… .venv/bin/python tests/end_to_end/test_wire_format.py --record

records them anew; look at `git diff` before you commit what came of it. What differs from run to run is replaced: ids, times, the
version. The model writes chosen texts (table_model.py), so that every machine gives the same numbers. That the form is OpenAI's is
checked by the models of its own Python package, and by its client, which drives every endpoint."""

import copy
import json
import re
import sys
import tempfile
from pathlib import Path

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject
from prometheus_client.parser import text_string_to_metric_families

FIXTURES = Path(__file__).resolve().parent / "fixtures"
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))

from server import Server  # noqa: E402
from table_model import TableModel  # noqa: E402

TEMPLATE = ("{{ say }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'
SAYS = {"text": ["Grü", "ße, ", "世", "界", " 🙂", "!\n"], "call": ["Let me see. ", CALL[:30], CALL[30:]],
        "thought": ["<think>", "\nHm, ", "well.\n", "</think>", "\n\nYes", "."], "json": ['{"a": ', "7", "}"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


# By plain decoding unless said: how many tokens a piece of a stream holds is a matter of measured times elsewhere.
def chat(say="text", **more):
    return "POST", "/v1/chat/completions", {"model": "table", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0,
                                            "chat_template_kwargs": {"say": say}, "method": "plain", **more}


def completion(prompt="text", **more):
    return "POST", "/v1/completions", {"model": "table", "prompt": prompt, "temperature": 0, "method": "plain", **more}


CASES = {
    "chat": {
        "whole": chat(), "length": chat(max_tokens=2), "stop string": chat(stop=["世"]), "two choices": chat(n=2),
        "log-probabilities": chat(logprobs=True, top_logprobs=2, max_tokens=3), "stream": chat(stream=True), "stream with usage": chat(**USAGE),
        "stream of two choices": chat(n=2, max_tokens=2, **USAGE),
        "stream with log-probabilities": chat(logprobs=True, top_logprobs=1, max_tokens=3, stream=True),
        "stream of a stop string": chat(stop=["世"], stream=True),
        "call": chat("call", tools=TOOLS), "stream of a call": chat("call", tools=TOOLS, **USAGE),
        "named call": chat("json", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=90),
        "stream of a required call": chat("json", tools=TOOLS, tool_choice="required", max_tokens=90, parallel_tool_calls=False, stream=True),
        "thought": chat("thought"), "stream of a thought": chat("thought", **USAGE),
        "schema": chat("json", response_format=SCHEMA), "stream of a schema": chat("text", response_format=SCHEMA, max_tokens=40, stream=True),
        "by lookup": chat(method="lookup", method_options={"adaptive": 0}), "sampled": chat(temperature=0.7, seed=1, top_p=0.9),
        "no messages": chat(messages=[]), "wrong range": chat(temperature=3), "unknown model": chat(model="other"),
        "not supported": chat(functions=[{"name": "f"}]), "too long": chat(messages=[{"role": "user", "content": "a" * 5000}]),
        "hostile grammar": chat(guided_regex="((a{1,999}){1,999}){1,999}"), "wrong type": chat(max_tokens="many"),
    },
    "completions": {
        "whole": completion(), "echo": completion(echo=True), "log-probabilities": completion(logprobs=2, max_tokens=3),
        "prompt scored": completion("text", echo=True, logprobs=1, max_tokens=0), "echo and both": completion(echo=True, logprobs=1, max_tokens=2),
        "several prompts": completion(["text", "json"]), "token ids": completion([104, 105], max_tokens=3), "beams": completion(method="beam", max_tokens=4),
        "stream": completion(stream=True), "stream with usage": completion(**USAGE), "stream with echo": completion(echo=True, max_tokens=2, stream=True),
        "stream of several": completion(["text", "json"], n=2, max_tokens=2, **USAGE),
        "stream with log-probabilities": completion(logprobs=1, max_tokens=3, stream=True), "grammar": completion(grammar='root ::= "ab" [0-9]'),
        "empty prompt": completion(""), "wrong token": completion([10 ** 6]), "suffix": completion(suffix="x"),
    },
    "others": {
        "models": ("GET", "/v1/models", None), "model": ("GET", "/v1/models/table", None), "alias": ("GET", "/v1/models/other-name", None),
        "no model": ("GET", "/v1/models/none", None), "health": ("GET", "/health", None), "version": ("GET", "/version", None),
        "tokens": ("POST", "/tokenize", {"content": "Grüße", "with_pieces": True}), "tokens as vLLM": ("POST", "/tokenize", {"prompt": "Hi"}),
        "text of tokens": ("POST", "/detokenize", {"tokens": [71, 114, 195, 188]}), "no tokens": ("POST", "/detokenize", {"tokens": "a"}),
        "vectors": ("POST", "/v1/embeddings", {"model": "table", "input": ["Hi", "Ho"]}),
        "vectors as bytes": ("POST", "/v1/embeddings", {"model": "table", "input": [72, 105], "encoding_format": "base64"}),
        "ranks": ("POST", "/v1/rerank", {"model": "table", "query": "Hi", "documents": ["Ho", {"text": "Hi"}, "Hi, ho"], "top_n": 2}),
        "ranks alone": ("POST", "/v1/rerank", {"query": "Hi", "documents": ["Ho"], "return_documents": False}),
        "no ranks": ("POST", "/v1/rerank", {"query": "Hi", "documents": []}),
        "no vectors": ("POST", "/v1/embeddings", {"model": "table"}), "nothing there": ("GET", "/v1/nothing", None),
        "wrong method": ("GET", "/v1/completions", None), "head": ("HEAD", "/health", None), "methods": ("GET", "/v1/methods", None),
        "document": ("GET", "/openapi.json", None), "metrics": ("GET", "/metrics", None), "page": ("GET", "/", None),
        "no JSON": ("POST", "/v1/completions", "{"),
    },
}


def start(folder):
    model, says = TableModel(), {}
    for name, pieces in SAYS.items():
        says[name] = model.say(pieces)
    path = model.write(Path(folder) / "table.gguf", TEMPLATE)
    return Server("-q", "-t", "1", "--kv-pages", "512", "-a", "table", "-a", "other-name", model=str(path)), says


def told(body, says, salt):
    """The request as it goes out: with the special token of what the model is to write, and sharing nothing with others."""
    if not isinstance(body, dict) or "query" in body or "input" in body or "content" in body or "tokens" in body:
        return body
    body = {**body, "cache_salt": salt}
    if "prompt" in body:
        name = lambda p: f"{says[p]}Go: " if isinstance(p, str) and p in says else p
        body["prompt"] = [name(p) for p in body["prompt"]] if isinstance(body["prompt"], list) else name(body["prompt"])
    if "chat_template_kwargs" in body:
        body["chat_template_kwargs"] = {"say": says[body["chat_template_kwargs"]["say"]]}
    return body


def plain(value, key=""):
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {k: plain(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v, key) for v in value]
    if key == "created":
        assert value > 1.7e9
        return 0
    if key in ("forwards", "rows", "tokens_per_forward"):  # choices may share a forward, or take turns
        assert value >= 0
        return "COUNTED"
    if key == "version":
        return "VERSION"
    if key == "id" and isinstance(value, str):
        return re.sub(r"^(chatcmpl-|cmpl-|call_|rerank-)\w+$", r"\1ID", value)
    return value


def headers_of(headers):
    def one(name, value):
        if name.endswith(("-time", "-time-per-token")):
            assert float(value) >= 0
            return "SECONDS"
        return {"x-request-id": "ID", "content-length": "BYTES", "content-security-policy": "POLICY"}.get(name, value)
    return {name: one(name, value) for name, value in sorted(headers.items())}


def by_choice(events):
    """Those of one choice in their order, one choice after the other: prompts of one body may begin a tick apart."""
    return sorted(events, key=lambda event: event["choices"][0]["index"] if event["choices"] else 1000)


def body_of(path, headers, text):
    if path == "/metrics":
        return [[f.name, f.type, f.documentation, sorted({s.name for s in f.samples}),
                 sorted({label for s in f.samples for label in s.labels})] for f in text_string_to_metric_families(text)]
    if path == "/openapi.json":
        return {p: sorted(methods) for p, methods in json.loads(text)["paths"].items()}
    if path == "/v1/methods":
        answer = json.loads(text)
        return {**answer, "data": answer["data"][:2]}  # more of them come
    if headers["content-type"].startswith("text/html") or not text:
        return text[:15]
    if headers["content-type"] == "text/event-stream":
        parts = text.split("\n\n")
        assert parts.pop() == "" and all(part.startswith("data: ") and "\n" not in part for part in parts)
        assert parts.pop() == "data: [DONE]"
        return [*by_choice(plain(json.loads(part.removeprefix("data: "))) for part in parts), "data: [DONE]"]
    return plain(json.loads(text))


def answers(server, says):
    for group, cases in CASES.items():
        for name, (method, path, body) in cases.items():
            status, headers, text = server.request(method, path, told(body, says, f"{group} {name}"))
            yield group, {"name": name, "method": method, "path": path, "body": body,
                          "answer": {"status": status, "headers": headers_of(headers), "body": body_of(path, headers, text)}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    server, says = start(tmp_path_factory.mktemp("wire"))
    yield server, says
    assert server.stop() == 0


@pytest.fixture(scope="module")
def taken(world):
    lines = {}
    for group, line in answers(*world):
        lines[group, line["name"]] = line
    return lines


def recorded():
    return {(group, line["name"]): line for group in CASES
            for line in map(json.loads, (FIXTURES / f"{group}.jsonl").read_text().splitlines())}


def test_answers_are_the_recorded_ones(taken):
    expected = recorded()
    assert list(taken) == list(expected)
    for key, line in taken.items():
        # Through JSON, and with the order of keys.
        assert json.dumps(line) == json.dumps(expected[key]), key


KNOWN = {"/v1/chat/completions": (ChatCompletion, ChatCompletionChunk), "/v1/completions": (Completion, Completion),
         "/v1/embeddings": (CreateEmbeddingResponse, None)}
# What we say beyond OpenAI's fields, as others do: thoughts (DeepSeek), counts of our own.
OURS = {"tutti", "reasoning_content"}


def extras(model):
    """Fields that OpenAI's package does not know, anywhere in it."""
    found = set(model.model_extra or {})
    for name in type(model).model_fields:
        for value in (lambda v: v if isinstance(v, list) else [v])(getattr(model, name)):
            if isinstance(value, openai.BaseModel):
                found |= extras(value)
    return found


def test_the_form_is_openais(taken):
    streams = 0
    for key, line in copy.deepcopy(taken).items():
        status, body = line["answer"]["status"], line["answer"]["body"]
        if status >= 400:
            assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, key
            ErrorObject.model_validate(body["error"])
            continue
        if line["path"].startswith("/v1/models"):
            for one in body.get("data", [body]):
                assert set(Model.model_validate(one).model_extra) == {"max_model_len", "meta"}
        if line["path"] not in KNOWN:
            continue
        whole, chunk = KNOWN[line["path"]]
        if isinstance(body, dict):
            if line["body"].get("encoding_format") == "base64":
                assert all(isinstance(one.pop("embedding"), str) for one in body["data"])
                body = {**body, "data": [{**one, "embedding": []} for one in body["data"]]}
            for choice in body.get("choices", []):
                # A prompt's first token has no log-probability. OpenAI's answers said null there; its package forgot.
                for column in ("token_logprobs", "top_logprobs"):
                    if line["body"].get("echo") and choice["logprobs"]:
                        assert choice["logprobs"][column].pop(0) is None
            assert extras(whole.model_validate(body)) <= OURS, key
            continue
        streams += 1
        for event in body[:-1]:
            # What is not over has no reason; of pieces of completions the package does not say so, either.
            for choice in event["choices"] if chunk is Completion else []:
                choice["finish_reason"] = choice["finish_reason"] or "stop"
            assert extras(chunk.model_validate(event)) <= OURS, key
        wants_usage = "stream_options" in line["body"]
        assert ["usage" in event for event in body[:-1]] == [wants_usage] * (len(body) - 1)
        assert not wants_usage or (body[-2]["choices"] == [] and all(event["usage"] is None for event in body[:-2]))
    assert streams == sum("stream" in body for cases in CASES.values() for _, _, body in cases.values()
                          if isinstance(body, dict)) > 10


def test_openais_client_drives_every_endpoint(world, taken):
    """What the client makes of an answer is what stands in the record; and no route of the document is left out."""
    server, says = world
    client, driven = server.client(), set()
    for (group, name), line in taken.items():
        path, status, expected = line["path"], line["answer"]["status"], line["answer"]["body"]
        body = told(line["body"], says, f"{group} {name} by the client")
        if status >= 400 or line["method"] == "HEAD":
            continue
        driven.add(path)
        if path in ("/v1/chat/completions", "/v1/completions"):
            part = client.chat.completions if "chat" in path else client.completions
            known = {k: v for k, v in body.items() if k in ("model", "messages", "prompt", "stream")}
            answer = part.create(**known, extra_body={k: v for k, v in body.items() if k not in known})
            got = (by_choice(plain(e.model_dump(exclude_unset=True)) for e in answer) if body.get("stream")
                   else plain(answer.model_dump(exclude_unset=True)))
            assert got == (expected[:-1] if body.get("stream") else expected), (group, name)
        elif path == "/v1/embeddings":
            answer = client.embeddings.create(**body)
            if "encoding_format" not in body:
                assert answer.model_dump(exclude_unset=True) == expected
            assert len(client.embeddings.create(model="table", input="Hi").data[0].embedding) == 256  # as base64, read back
        elif path == "/v1/models":
            assert [plain(m.model_dump(exclude_unset=True)) for m in client.models.list()] == expected["data"]
        elif path.startswith("/v1/models/"):
            assert plain(client.models.retrieve(path.rsplit("/", 1)[1]).model_dump(exclude_unset=True)) == expected
        elif path in ("/metrics", "/"):
            assert len(client.get(server.url + path, cast_to=str)) > 1000
        elif line["method"] == "GET":
            answer = client.get(server.url + path, cast_to=object)
            assert body_of(path, {"content-type": "application/json"}, json.dumps(answer)) == expected
        else:
            assert plain(client.post(server.url + path, body=body, cast_to=object)) == expected
    with client.chat.completions.with_streaming_response.create(model="table", messages=[{"role": "user", "content": "a"}], max_tokens=1) as raw:
        assert float(raw.headers["x-total-time"]) > 0 and raw.request_id
    for error, body in ((openai.BadRequestError, {"max_tokens": -2}), (openai.NotFoundError, {"model": "none"})):
        with pytest.raises(error) as caught:
            client.completions.create(**{"model": "table", "prompt": "a", **body})
        assert caught.value.body["message"] and caught.value.type in ("invalid_request_error", "not_found_error")
    document = json.loads(server.request("GET", "/openapi.json")[2])
    driven |= {"/tutti/events"}  # a stream without an end: test_page.py
    driven = {"/v1/models/{model}" if path.startswith("/v1/models/") else path for path in driven}
    assert {re.sub(r"\{\w+\}", "{model}", path) for path in document["paths"]} <= driven


def record():
    with tempfile.TemporaryDirectory() as folder:
        server, says = start(folder)
        try:
            lines = {group: [] for group in CASES}
            for group, line in answers(server, says):
                lines[group].append(json.dumps(line, ensure_ascii=False))
        finally:
            server.stop()
    FIXTURES.mkdir(exist_ok=True)
    for group, texts in lines.items():
        (FIXTURES / f"{group}.jsonl").write_text("\n".join(texts) + "\n")
        print(f"{FIXTURES / group}.jsonl: {len(texts)} answers")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit(__doc__)
    record()
