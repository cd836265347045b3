"""The server over a model that writes chosen texts (table_model.py): every parser of calls and thoughts, stop strings and
grammars, with each text cut at every byte."""

import json

import jinja2
import pytest
from table_model import Control, TableModel, cuts
from server import Server

# `say` may stand anywhere: the model looks for it.
TEMPLATE = """{{ say }}{% if tools %}TOOLS {{ tools | tojson }}
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}\
{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if thinking %}<think>
{% endif %}{% endif %}"""

ARGUMENTS = '{"city": "Z\\u00fcrich \\"}\\" ]", "days": [1, {"a": null}]}'
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
    "required": ["city", "days"], "additionalProperties": False}}}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]

# (parser, text, content, calls)
CALLS = [
    ("hermes", f'Let me see, für "{{}}".\n\n<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
               '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
     'Let me see, für "{}".', [("get_weather", ARGUMENTS), ("now", "{}")]),
    ("hermes", "No <tool_call here </tool_call>.\n", "No <tool_call here </tool_call>.\n", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": 7}</tool_call>',
     '<tool_call>{"name": "now", "arguments": 7}</tool_call>', []),
    ("llama3", f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}; {{"name": "now", "parameters": {{}}}}', None,
     [("get_weather", ARGUMENTS), ("now", "{}")]),
    ("llama3", '{"name": "Ada", "parameters": {}}', '{"name": "Ada", "parameters": {}}', []),
    ("mistral", f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}, "id": "abcdefghi"}}, '
                '{"name": "now", "arguments": {}}]', None, [("get_weather", ARGUMENTS), ("now", "{}")]),
    ("mistral-args", f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]now[ARGS]{{}}", None,
     [("get_weather", ARGUMENTS), ("now", "{}")]),
    ("deepseek-v3", f"So:\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{ARGUMENTS}\n"
                    "```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n"
                    "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "So:", [("get_weather", ARGUMENTS), ("now", "{}")]),
    ("deepseek-v31", f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
                     "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", None,
     [("get_weather", ARGUMENTS), ("now", "{}")]),
]
# Marks as the control tokens that they are in these models' vocabularies.
MARKED = [
    ("mistral", [Control("[TOOL_CALLS]"), '[{"name": "now", "argu', 'ments": {}}]'], None, [("now", "{}")]),
    ("deepseek-v31", ["Hm.", Control("<｜tool▁calls▁begin｜>"), Control("<｜tool▁call▁begin｜>"), "now",
                      Control("<｜tool▁sep｜>"), "{}", Control("<｜tool▁call▁end｜>"), Control("<｜tool▁calls▁end｜>")],
     "Hm.", [("now", "{}")]),
    # A control token that is no mark says nothing.
    ("hermes", ["a", Control("<|vision|>"), "b"], "ab", []),
]
PLAIN = "Grüße, 世界 🙂!\n"
STOPS = [(["ab", "abc"], "xaabcy"), (["bcd", "abcz"], "zabcdz"), (["🙂"], "so 🙂 no"), (["nothing"], "nothin g"),
         (["aab", "b"], "aaaab")]
THOUGHTS = [  # text, the prompt has begun the thought, reasoning, content
    ("<think>\nHm, <thin 世.\n\nWell.\n</think>\n\nYes </think>.", False, "Hm, <thin 世.\n\nWell.", "Yes </think>."),
    ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
    ("Yes.", False, None, "Yes."),
    ("<think>\n\n</think>\n\nYes.", False, None, "Yes."),
]
THOUGHT_CALL = '<think>\nI will ask.\n</think>\n\nOne moment.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


class World:
    def __init__(self, folder):
        model = TableModel()
        say = lambda text: [model.say(p) for p in cuts(text)]
        self.calls = [say(text) for _, text, _, _ in CALLS]
        self.marked = [model.say(pieces) for _, pieces, _, _ in MARKED]
        self.plain = say(PLAIN)
        self.stops = [say(text) for _, text in STOPS]
        self.thoughts = [say(text) for text, _, _, _ in THOUGHTS]
        self.thought_call = say(THOUGHT_CALL)
        self.unwilling = model.say(["\nNo", " call."])
        self.fitting = model.say(['{"name": "get_weather", "arguments": {"city": "Bern", "days": 4', "}}"])
        self.arguments = model.say(['{"city": "Bern", ', '"days": 4}'])
        self.model, self.servers = model.write(folder / "table.gguf", TEMPLATE), {}

    def server(self, parser="auto"):
        if parser not in self.servers:
            self.servers[parser] = Server("-t", "1", "--tool-parser", parser, model=str(self.model))
        return self.servers[parser]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("table"))
    yield made
    for server in made.servers.values():
        assert server.stop() == 0


def body(say, **more):
    return {"messages": [{"role": "user", "content": "?"}], "temperature": 0, "max_tokens": 1000,
            "chat_template_kwargs": {"say": say, **more.pop("kwargs", {})}, **more}


def whole(server, request):
    status, _, text = server.request("POST", "/v1/chat/completions", request)
    assert status == 200, text
    answer = json.loads(text)
    return answer["choices"][0], answer["usage"]


def streamed(server, request):
    """The message that a client of OpenAI's puts together from the events, and the reason."""
    status, _, text = server.request("POST", "/v1/chat/completions", {**request, "stream": True})
    assert status == 200 and text.endswith("data: [DONE]\n\n"), text
    message, reason = {"content": "", "reasoning_content": "", "tool_calls": []}, None
    for line in text.split("\n\n")[:-2]:
        choice = json.loads(line.removeprefix("data: "))["choices"][0]
        assert reason is None
        reason = choice["finish_reason"]
        delta = choice["delta"]
        for name in ("content", "reasoning_content"):
            message[name] += delta.get(name) or ""
        for call in delta.get("tool_calls", []):
            if call["index"] == len(message["tool_calls"]):
                assert call["type"] == "function" and call["id"]
                message["tool_calls"].append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:  # fragments belong to the last call and name it no more
                assert call["index"] + 1 == len(message["tool_calls"]) and set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
                message["tool_calls"][-1]["function"]["arguments"] += call["function"]["arguments"]
    return message, reason


def calls_of(message):
    return [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []]


def check(server, says, request, content, calls, reasoning=None, reason=None):
    """Every way of writing a text, streamed; the first two (bytes, one cut) as whole answers, too."""
    reason = reason or ("tool_calls" if calls else "stop")
    for i, say in enumerate(says):
        request["chat_template_kwargs"]["say"] = say
        message, why = streamed(server, request)
        assert (message["content"], calls_of(message), message["reasoning_content"], why) == (
            content or "", calls, reasoning or "", reason), say
        ids = [c["id"] for c in message["tool_calls"]]
        assert len(set(ids)) == len(ids)
        if i < 2:
            choice, _ = whole(server, request)
            assert (choice["message"]["content"], calls_of(choice["message"]), choice["finish_reason"]) == (
                content, calls, reason)
            assert choice["message"].get("reasoning_content") == reasoning
            assert ("tool_calls" in choice["message"]) == bool(calls)


def test_the_model_writes_what_it_is_told(world):
    check(world.server(), world.plain, body(""), PLAIN, [])
    choice, usage = whole(world.server(), body(world.plain[0]))
    assert usage["completion_tokens"] == len(PLAIN.encode())
    for method in ("plain", "lookup"):
        hot = body(world.plain[0], temperature=0.7, seed=1, n=3, method=method)
        _, _, text = world.server().request("POST", "/v1/chat/completions", hot)
        assert [c["message"]["content"] for c in json.loads(text)["choices"]] == [PLAIN] * 3


@pytest.mark.parametrize("index", range(len(STOPS)))
def test_stop_strings(world, index):
    stops, text = STOPS[index]
    ends = sorted((text.index(s) + len(s), -len(s)) for s in stops if s in text)
    expected = text[:ends[0][0] + ends[0][1]] if ends else text
    check(world.server(), world.stops[index], body("", stop=stops), expected, [])
    # The same where calls are looked for.
    check(world.server(), world.stops[index], body("", stop=stops, tools=TOOLS), expected, [])


@pytest.mark.parametrize("index", range(len(CALLS)))
def test_calls(world, index):
    parser, text, content, calls = CALLS[index]
    check(world.server(parser), world.calls[index], body("", tools=TOOLS), content, calls)
    # Without tools, or where they must not be called, the same text is text.
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice, _ = whole(world.server(parser), body(world.calls[index][0], **more))
        assert choice["message"]["content"] == text and choice["finish_reason"] == "stop"
    one, _ = whole(world.server(parser), body(world.calls[index][0], tools=TOOLS, parallel_tool_calls=False))
    assert calls_of(one["message"]) == calls[:1]
    cut, _ = whole(world.server(parser), body(world.calls[index][0], tools=TOOLS, max_tokens=len(text.encode()) - 9))
    assert cut["finish_reason"] == "length"


@pytest.mark.parametrize("index", range(len(MARKED)))
def test_marks_that_are_control_tokens(world, index):
    parser, _, content, calls = MARKED[index]
    check(world.server(parser), [world.marked[index]], body("", tools=TOOLS), content, calls)
    # Stop strings are those of text: marks are none.
    check(world.server(parser), [world.marked[index]], body("", tools=TOOLS, stop=["TOOL", "<", "tool"]), content, calls)


@pytest.mark.parametrize("index", range(len(THOUGHTS)))
def test_thoughts(world, index):
    _, begun, reasoning, content = THOUGHTS[index]
    check(world.server(), world.thoughts[index], body("", kwargs={"thinking": begun}), content, [], reasoning)


def test_thoughts_before_calls_and_their_tokens(world):
    check(world.server(), world.thought_call, body("", tools=TOOLS), "One moment.", [("now", "{}")], "I will ask.")
    choice, usage = whole(world.server(), body(world.thoughts[1][0], kwargs={"thinking": True}))
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len("Hm.\n</think>")
    off = Server("-t", "1", "--reasoning-parser", "none", model=str(world.model))
    choice, _ = whole(off, body(world.thoughts[0][0]))
    assert choice["message"]["content"] == THOUGHTS[0][0] and "reasoning_content" not in choice["message"]
    assert off.stop() == 0


@pytest.mark.parametrize("parser", ["hermes", "llama3", "mistral", "mistral-args", "deepseek-v3", "deepseek-v31"])
def test_calls_are_enforced(world, parser):
    """Whatever the model would rather write, and whatever its prompt had begun."""
    server = world.server(parser)
    named = {"type": "function", "function": {"name": "get_weather"}}
    for say in (world.unwilling, world.fitting, world.arguments):
        for kwargs in ({}, {"thinking": True}):
            for choice, reason in ((named, "stop"), ("required", "tool_calls")):
                request = body(say, tools=TOOLS, tool_choice=choice, kwargs=kwargs)
                answer, _ = whole(server, request)
                calls = calls_of(answer["message"])
                assert calls and answer["message"]["content"] is None and answer["finish_reason"] == reason
                for name, arguments in calls:
                    read = json.loads(arguments)
                    assert name == "now" or set(read) == {"city", "days"} and read["days"] >= 3
                if choice == named:
                    assert [name for name, _ in calls] == ["get_weather"]
                message, why = streamed(server, request)
                assert calls_of(message) == calls and why == reason and message["content"] == ""
    # What fits stands as the model wrote it.
    direct = world.fitting if parser == "hermes" else world.arguments if parser.startswith(("deepseek", "mistral-")) else None
    if direct:
        answer, _ = whole(server, body(direct, tools=TOOLS, tool_choice=named))
        assert calls_of(answer["message"]) == [("get_weather", '{"city": "Bern", "days": 4}')]


def test_texts_that_must_fit_a_grammar(world):
    server = world.server()
    choice, _ = whole(server, body(world.arguments, response_format={"type": "json_object"}))
    assert choice["message"]["content"] == '{"city": "Bern", "days": 4}'
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER["function"]["parameters"]}}
    for say in (world.arguments, world.unwilling, world.fitting):
        choice, _ = whole(server, body(say, response_format=schema, kwargs={"thinking": True}))
        assert set(json.loads(choice["message"]["content"])) == {"city", "days"}
        assert "reasoning_content" not in choice["message"]
    for grammar in ({"guided_regex": "[a-z]{3}-[0-9]"}, {"grammar": 'root ::= "ab" [0-9] | "cd"'}):
        choice, _ = whole(server, body(world.unwilling, **grammar))
        assert choice["finish_reason"] == "stop" and choice["message"]["content"]


def test_what_is_refused(world):
    server = world.server()
    bad = {"type": "function", "function": {"name": "bad", "parameters": {"type": "object", "not": {}}}}
    for more, param, words in [
        ({"tools": [bad], "tool_choice": "required"}, "tools", "tool bad: schema"),
        ({"tools": [NOW, NOW]}, "tools", "two functions"),
        ({"tools": [NOW] * 129}, "tools", "at most 128"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "none of the tools"),
        ({"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice", "give one"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages", "every call needs"),
    ]:
        status, error, _ = server.error("POST", "/v1/chat/completions", {**body(world.unwilling), **more})
        assert (status, error["param"]) == (400, param) and words in error["message"], error
    # A schema that no grammar stands for is the model's business as long as the call is its choice.
    assert whole(server, body(world.unwilling, tools=[bad]))[0]["message"]["content"] == "\nNo call."


def test_earlier_calls_reach_the_template(world):
    """Arguments as objects, results as messages: the prompt is as long as Jinja's."""
    messages = [{"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": None, "reasoning_content": "Ask.", "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"B", "days":3}'}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "21"}]}]
    given = [{**messages[0]}, {**messages[1], "content": "", "tool_calls": [
        {**messages[1]["tool_calls"][0], "function": {"name": "get_weather", "arguments": {"city": "B", "days": 3}}}]},
        {**messages[2], "content": "21"}]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    for tools in (None, TOOLS):
        prompt = environment.from_string(TEMPLATE).render(messages=given, tools=tools, say=world.unwilling, add_generation_prompt=True)
        tokens = len(json.loads(world.server().request("POST", "/tokenize", {"content": prompt})[2])["tokens"])
        request = {**body(world.unwilling), "messages": messages, **({"tools": tools} if tools else {})}
        assert whole(world.server(), request)[1]["prompt_tokens"] == tokens


def test_openais_client(world):
    client = world.server().client()
    with client.chat.completions.stream(model="table.gguf", messages=[{"role": "user", "content": "?"}], temperature=0,
                                        tools=TOOLS, extra_body={"chat_template_kwargs": {"say": world.calls[0][0]}}) as stream:
        final = stream.get_final_completion().choices[0]
    assert [(c.function.name, c.function.arguments) for c in final.message.tool_calls] == CALLS[0][3]
    assert final.finish_reason == "tool_calls" and final.message.content == CALLS[0][2]
