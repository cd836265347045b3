"""Images in chats: a random tiny Dimple answers over HTTP what it answers to `tutti run --image`; what is no image is refused."""

import base64
import io
import json

import pytest
import tiny_dimple
from server import MODEL, Server
from tiny_dimple import picture
from user import tutti

PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE = ("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
            "{% if p.type == 'image' %}" + PLACE + "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny_dimple.write_folder(tmp_path_factory.mktemp("dimple") / "model", tiny_dimple.hf_model())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_dimple.picture_files(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def server(folder):
    running = Server("-t", "1", "--max-images", "2", model=folder)
    yield running
    assert running.stop() == 0


def image(data, kind="png"):
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64," + base64.b64encode(data).decode()}}


def text(words):
    return {"type": "text", "text": words}


def body(*parts, **fields):
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 12, "ignore_eos": True, "temperature": 0, **fields}


def test_answers_are_those_of_run(server, folder, files):
    assert "images: read from data: URLs" in server.log
    for count in (1, 2):
        arguments = [a for f in files[:count] for a in ("--image", f)]
        run = tutti("run", "-m", folder, "-p", "what is it", "-n", "12", "--ignore-eos", "-q", "--json", *arguments).json()
        parts = [image(f.read_bytes(), "jpeg" if i == 0 else "png") for i, f in enumerate(files[:count])]
        status, _, answer = server.request("POST", "/v1/chat/completions", body(*parts, text("what is it")))
        assert status == 200, answer
        answer = json.loads(answer)
        assert answer["choices"][0]["message"]["content"] == run["text"]
        assert answer["usage"]["prompt_tokens"] == len(run["prompt_ids"])
        stream = server.request("POST", "/v1/chat/completions", body(*parts, text("what is it"), stream=True))[2]
        pieces = [json.loads(line[6:]) for line in stream.split("\n") if line.startswith("data: {")]
        assert "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces) == run["text"]
    seen = {json.loads(server.request("POST", "/v1/chat/completions", body(image(f.read_bytes()), text("what is it")))[2])
            ["choices"][0]["message"]["content"] for f in files}
    assert len(seen) == 2


def test_what_is_refused(server, files):
    good = files[0].read_bytes()
    large = io.BytesIO()
    picture(1400, 1400).save(large, "jpeg")
    url = lambda u: {"type": "image_url", "image_url": {"url": u}}
    cases = [
        ([url("https://127.0.0.1/a.png")], "fetches no address"),
        ([url("file:///etc/passwd")], "reads no file"),
        ([url("/etc/passwd")], "reads no file"),
        ([url("data:image/png;base64,@@@@")], "no base64"),
        ([url("data:image/png;base64,")], "no base64"),
        ([url("data:image/png,abc")], "data:image/png;base64"),
        ([{"type": "image_url"}], "image part needs"),
        ([{"type": "image_url", "image_url": {"url": 1}}], "image part needs"),
        ([image(b"no picture at all")], "image 1"),
        ([image(good), image(good[:200])], "image 2"),
        ([image(good)] * 3, "more than 2 images"),
        ([image(good), text("<|image_pad|>")], "places for 2 images"),
        ([image(large.getvalue())], "do not fit the context of 512"),
    ]
    for parts, words in cases:
        status, error, _ = server.error("POST", "/v1/chat/completions", body(*parts, text("a")))
        assert status == 400 and error["param"] == "messages" and words in error["message"], error
    other = {"messages": [{"role": "system", "content": [image(good)]}, {"role": "user", "content": "a"}]}
    assert "of the user alone" in server.error("POST", "/v1/chat/completions", other)[1]["message"]
    assert server.request("GET", "/health")[0] == 200


def test_a_model_without_a_tower(files):
    server = Server("-t", "1", model=MODEL)
    try:
        status, error, _ = server.error("POST", "/v1/chat/completions", body(image(files[0].read_bytes()), text("a")))
        assert status == 400 and "reads no images" in error["message"] and error["param"] == "messages"
    finally:
        assert server.stop() == 0
