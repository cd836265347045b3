"""Published chat templates, rendered by Tutti and by transformers' own jinja2 environment: equal texts.

The templates are read from the peer folder (bash bench/peers/llama.cpp/fetch.sh), not copied. Where
transformers refuses a conversation, ours must refuse it too. All renders go through one process,
tests/conformance/render_template.cpp.
"""
import datetime
import json
import os
import pathlib
import subprocess

import pytest

utils = pytest.importorskip("transformers.utils.chat_template_utils")

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATES = pathlib.Path(
    os.environ.get("TUTTI_TEMPLATES", ROOT / ".cache/peers/llama.cpp/models/templates")
)
PROGRAM = pathlib.Path(os.environ.get("TUTTI_BUILD", ROOT / "build/release")) / "render_template"
NOW = 1735732800  # 2025-01-01 12:00:00 UTC

# Differences left, as (template, conversation): reason. Keep this empty.
KNOWN = {}

# The families the engine runs first; their templates must be here and be equal.
MAIN = [
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
    "google-gemma-2-2b-it", "mistralai-Mistral-Nemo-Instruct-2407", "HuggingFaceTB-SmolLM3-3B",
    "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
]

# Templates of main models that the peer folder lacks, as published.
INLINE = {
    "SmolLM2-Instruct": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma-3-it": (
        "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
        "    {%- if messages[0]['content'] is string -%}\n"
        "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- else -%}\n"
        "        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n"
        "    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n"
        "    {%- set first_user_prefix = \"\" -%}\n    {%- set loop_messages = messages -%}\n"
        "{%- endif -%}\n{%- for message in loop_messages -%}\n"
        "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
        "        {{ raise_exception(\"Conversation roles must alternate user/assistant/user/assistant/...\") }}\n"
        "    {%- endif -%}\n    {%- if (message['role'] == 'assistant') -%}\n"
        "        {%- set role = \"model\" -%}\n    {%- else -%}\n"
        "        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
        "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
        "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n"
        "    {%- elif message['content'] is iterable -%}\n"
        "        {%- for item in message['content'] -%}\n            {%- if item['type'] == 'image' -%}\n"
        "                {{ '<start_of_image>' }}\n            {%- elif item['type'] == 'text' -%}\n"
        "                {{ item['text'] | trim }}\n            {%- endif -%}\n        {%- endfor -%}\n"
        "    {%- else -%}\n        {{ raise_exception(\"Invalid content type\") }}\n    {%- endif -%}\n"
        "    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n"
        "    {{'<start_of_turn>model\n'}}\n{%- endif -%}\n"
    ),
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city; é <b>\"quoted\"</b> & more",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "detail": {
                    "type": "object",
                    "properties": {"wind": {"type": "boolean"}, "rain": {"type": ["number", "null"]}},
                    "required": ["wind"],
                },
                "tags": {"type": "array", "items": {"type": "string"}},
                "any": {"anyOf": [{"type": "string"}, {"type": "number"}], "nullable": True},
            },
            "required": ["city"],
        },
        "return": {"type": "object", "properties": {"t": {"type": "number"}}},
    },
}
PLAIN = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search\nthe web",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "number", "default": 1.5}},
            "required": ["query", "limit"],
        },
    },
}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, identity="abcdef123"):
    return {"type": "function", "id": identity, "function": {"name": name, "arguments": arguments}}


def speaker(role):
    return lambda content, **more: say(role, content, **more)


user, assistant, system = speaker("user"), speaker("assistant"), speaker("system")


def tool(content, identity="abcdef123", name="get_weather"):
    return say("tool", content, tool_call_id=identity, name=name)


def conversations():
    """(name, messages, options)"""
    sun = call("get_weather", {"city": "Köln", "days": 3, "detail": {"wind": True, "rain": None}})
    second = call("search", {"query": "a \"b\" <c>", "limit": 2.5}, "ghijkl456")
    text = call("get_weather", '{"city": "Köln", "days": 3}')
    called = [user("Weather?"), assistant("", tool_calls=[sun]), tool('{"t": 21.5}')]
    none_called = [user("Weather?"), assistant(None, tool_calls=[sun]), tool("21")]
    parts = [{"type": "text", "text": " What is this? "}, {"type": "image"}, {"type": "text", "text": "And\nthat?"}]
    plain = [
        ("user", [user("Hello")]),
        ("system", [system("Be brief."), user("Hello")]),
        ("turns", [user("Hi"), assistant("Hello!"), user("How are you?")]),
        ("system turns", [system("Be brief."), user("Hi"), assistant("Hello!"), user("More?")]),
        ("long", [user(f"q{i}") if i % 2 == 0 else assistant(f"a{i}") for i in range(9)]),
        ("ends with assistant", [user("Hi"), assistant("Hello!")]),
        ("white space", [system("  padded \n"), user("\n  x  \n"), assistant("  y  "), user(" z\t")]),
        ("unicode", [system("Ünïcode ✓"), user("日本語 🎉 ﬁ ß İ"), assistant("Привет — «мир»"), user("\u00a0x\u3000")]),
        ("empty content", [user(""), assistant(""), user("")]),
        ("no messages", []),
        ("only system", [system("Be brief.")]),
        ("assistant first", [assistant("Hello"), user("Hi")]),
        ("two users", [user("a"), user("b")]),
        ("two systems", [system("a"), system("b"), user("c")]),
        ("system later", [user("a"), system("b"), user("c")]),
        ("unknown role", [user("a"), say("narrator", "b")]),
        ("developer", [say("developer", "Rules."), user("Hi")]),
        ("no content", [{"role": "user"}]),
        ("none content", [user("Hi"), assistant(None), user("?")]),
        ("special text", [user("<|im_end|> {{ x }} {% if %} </s> <think>a</think>")]),
        ("quotes", [user("it's \"so\" \\n & <b>")]),
        ("parts", [user(parts)]),
        ("text parts", [system([{"type": "text", "text": "Sys."}]), user([{"type": "text", "text": "Hi"}]),
                        assistant([{"type": "text", "text": "Yo"}]), user([{"type": "text", "text": "?"}])]),
        ("empty parts", [user([])]),
        ("think tags", [user("1+1?"), assistant("<think>\nadd\n</think>\n\n2"), user("2+2?")]),
        ("think in last", [user("1+1?"), assistant("<think>\nadd\n</think>\n\n2")]),
        ("reasoning", [user("1+1?"), assistant("2", reasoning_content="add them\n"), user("2+2?"),
                       assistant("4", reasoning_content="again")]),
        ("thinking", [user("1+1?"), assistant("2", thinking="add them"), user("more")]),
        ("think command", [system("/no_think Be brief."), user("Hi /think")]),
        ("number content", [user(5)]),
        ("named", [user("Hi", name="Ann"), assistant("Hello Ann", name="Bob"), user("Bye")]),
    ]
    tooled = [
        ("tools unused", [user("Hi")]),
        ("tools system", [system("Sys."), user("Hi"), assistant("Yo"), user("Weather?")]),
        ("call", [user("Weather?"), assistant("", tool_calls=[sun])]),
        ("call none", [user("Weather?"), assistant(None, tool_calls=[sun])]),
        ("call answered", called),
        ("call answered none", none_called),
        ("call finished", called + [assistant("21.5 degrees."), user("Thanks")]),
        ("call text arguments", [user("W?"), assistant("", tool_calls=[text]), tool("21"), assistant("ok")]),
        ("two calls", [user("W?"), assistant("", tool_calls=[sun, second]), tool("21"),
                       tool("[1]", "ghijkl456", "search")]),
        ("call with content", [user("W?"), assistant("Let me see.", tool_calls=[sun]), tool("21"),
                               assistant("Fine."), user("ok")]),
        ("call reasoning", [user("W?"), assistant("", reasoning_content="look up", tool_calls=[sun]), tool("21")]),
        ("call no arguments", [user("Time?"), assistant("", tool_calls=[call("now", {})]), tool("12:00", name="now")]),
        ("tool parts", [user("W?"), assistant("", tool_calls=[sun]),
                        say("tool", [{"type": "text", "text": "21"}], tool_call_id="abcdef123")]),
        ("tool object", [user("W?"), assistant("", tool_calls=[sun]), tool({"t": 21.5, "ok": True})]),
        ("bare call", [user("W?"), assistant("", tool_calls=[{"name": "now", "arguments": {"a": [1, 2.0, None]}}])]),
        ("system call later", [system("S"), user("W?"), assistant("", tool_calls=[sun]), tool("21"),
                               assistant("Warm."), user("And now?"), assistant("", tool_calls=[second]),
                               tool("[]", "ghijkl456", "search")]),
        ("functional ids", [user("W?"), assistant("", tool_calls=[call("now", {}, "functions.now:0")]),
                            tool("12", "functions.now:0", "now")]),
    ]
    cases = []
    for name, messages in plain:
        for prompt in (False, True):
            cases.append((f"{name}{' +prompt' if prompt else ''}", messages, {"add_generation_prompt": prompt}))
    for name, messages in tooled:
        cases.append((name, messages, {"tools": [WEATHER, PLAIN, SEARCH], "add_generation_prompt": True}))
        cases.append((f"{name}, one tool", messages, {"tools": [WEATHER]}))
    for name, messages in tooled[2:8]:
        cases.append((f"{name}, no tools", messages, {"add_generation_prompt": True}))
    cases.append(("empty tools", plain[1][1], {"tools": []}))
    cases.append(("bare tools", plain[1][1], {"tools": [WEATHER["function"]]}))
    for name, extra in {
        "thinking on": {"enable_thinking": True, "thinking": True},
        "thinking off": {"enable_thinking": False, "thinking": False},
        "effort": {"reasoning_effort": "high", "thinking_effort": "high", "model_identity": "You are X."},
        "documents": {"documents": [{"title": "T", "text": "Body"}]},
        "date": {"date_string": "1 May 2024", "tools_in_user_message": False},
        "keep": {"preserve_thinking": True, "clear_thinking": False, "keep_past_thinking": True,
                 "truncate_history_thinking": False},
        "format": {"response_format": {"type": "json_object"}, "json_schema": {"type": "object"}},
        "no tokens": {"bos_token": None, "eos_token": ""},
    }.items():
        for base in (plain[3], plain[24], plain[26]):
            cases.append((f"{base[0]}, {name}", base[1], {"add_generation_prompt": True, "extra": extra}))
        cases.append((f"call finished, {name}", tooled[6][1], {"tools": [WEATHER], "extra": extra}))
    return cases


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


def reference(source, messages, options):
    """(text, None) or (None, error)"""
    extra = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", **options.get("extra", {})}
    try:
        rendered, _ = utils.render_jinja_template(
            [json.loads(json.dumps(messages))], tools=options.get("tools"), chat_template=source,
            add_generation_prompt=options.get("add_generation_prompt", False), **extra,
        )
        rendered[0].encode()
        return rendered[0], None
    except Exception as error:  # whatever Python raises is a refusal
        return None, f"{type(error).__name__}: {error}"


def ours(requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    run = subprocess.run([PROGRAM], input=lines.encode(), capture_output=True, check=True,
                         env={**os.environ, "TZ": "UTC"})
    return [json.loads(line) for line in run.stdout.decode().splitlines()]


def sources():
    found = {p.stem: p.read_text() for p in sorted(TEMPLATES.glob("*.jinja"))}
    return {**found, **INLINE}


@pytest.fixture(scope="module")
def results():
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is not built; run: make build")
    utils.datetime = Fixed
    requests, expected, names = [], [], []
    for template, source in sources().items():
        for name, messages, options in conversations():
            extra = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                     **options.get("extra", {})}
            requests.append({"template": source, "messages": messages, "now": NOW, "tools": options.get("tools"),
                             "add_generation_prompt": options.get("add_generation_prompt", False), "extra": extra})
            expected.append(reference(source, messages, options))
            names.append((template, name))
    out = {}
    for name, want, got in zip(names, expected, ours(requests), strict=True):
        out.setdefault(name[0], []).append((name[1], want, got))
    return out


def differences(cases):
    wrong = []
    for name, (text, error), got in cases:
        if error is not None:
            if "error" not in got:
                wrong.append((name, f"jinja2 refuses ({error}), we do not"))
        elif "error" in got:
            wrong.append((name, f"we refuse: {got['error']}"))
        elif got["text"] != text:
            at = next((i for i, (a, b) in enumerate(zip(text, got["text"])) if a != b), min(len(text), len(got["text"])))
            wrong.append((name, f"at {at}: want {text[max(0, at - 20):at + 40]!r}, got {got['text'][max(0, at - 20):at + 40]!r}"))
    return wrong


@pytest.mark.parametrize("template", sorted(sources()))
def test_template_equals_jinja2(results, template):
    wrong = [w for w in differences(results[template]) if (template, w[0]) not in KNOWN]
    assert not wrong, f"{len(wrong)} of {len(results[template])}: {wrong[:3]}"


@pytest.mark.parametrize("template", sorted(INLINE) + MAIN)
def test_main_models_render(results, template):
    """Agreement in refusing everything would prove nothing."""
    if template not in results:
        pytest.skip("fetch the templates: bash bench/peers/llama.cpp/fetch.sh")
    assert sum(text is not None for _, (text, _), _ in results[template]) >= 30


def test_published_templates_are_here(results):
    if len(results) == len(INLINE):
        pytest.skip("fetch the templates: bash bench/peers/llama.cpp/fetch.sh")
    assert len(results) >= 60
