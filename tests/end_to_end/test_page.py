"""The server's page and its score: what they send, and, where a browser is installed, what a person sees."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from server import Server
from table_model import TableModel
from user import tutti

ROOT = Path(__file__).resolve().parents[2]
SUDOKU = ROOT / "weights" / "sudoku"


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1", "-q")
    yield running
    assert running.stop() == 0


class Watcher:
    """Reads /tutti/events."""

    def __init__(self, server, **headers):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.connection.request("GET", "/tutti/events", headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200 and self.response.headers["content-type"] == "text/event-stream"

    def event(self):
        while True:
            line = self.response.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                return json.loads(line[6:])

    def until_idle(self):
        """Events up to one that says that nothing runs any more, after some that said otherwise."""
        events, ran = [], False
        while True:
            events.append(self.event())
            ran = ran or any(t["ended"] for t in events[-1]["ticks"])
            if ran and events[-1]["running"] == 0 and not events[-1]["ticks"]:
                return events

    def close(self):
        self.response.close()
        self.connection.close()


def test_the_page_takes_nothing_from_outside(server):
    nonces = []
    for _ in range(2):
        status, headers, page = server.request("GET", "/")
        assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        nonces.append(re.fullmatch(r"'nonce-([0-9a-f]{32})'", policy["script-src"])[1])
        assert policy == {"default-src": "'none'", "script-src": f"'nonce-{nonces[-1]}'", "style-src": f"'nonce-{nonces[-1]}'",
                          "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
                          "frame-ancestors": "'none'"}
        assert re.findall(r'<(?:script|style) nonce="([0-9a-f]+)">', page) == [nonces[-1]] * 2
        assert not re.search(r"https?:|//[a-z]|\bsrc=|@import|url\(|\bstyle=\"|\son[a-z]+=\"", page)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(", page)
    assert nonces[0] != nonces[1]


def test_methods_are_the_programs(server):
    listed = json.loads(server.request("GET", "/v1/methods")[2])
    assert listed["data"] == tutti("methods", "--json").json()
    model = listed["models"][0]
    assert model == {"id": "smollm2", "chat": True, "max_model_len": 8192, "auto": "lookup",
                     "methods": ["plain", "beam", "lookup", "early-exit"]}


def test_the_score_adds_up_to_what_was_answered(server):
    watcher = Watcher(server)
    first = watcher.event()
    assert first["running"] == first["waiting"] == 0 and first["ticks"] == [] and first["model"] == "smollm2"
    before = server.metrics()
    ask = lambda i: json.loads(server.request("POST", "/v1/completions", {  # noqa: E731
        "prompt": f"Number {i}: one two one two one two one", "max_tokens": 12 + i, "n": 1 + i % 2, "seed": i, "temperature": 0.5,
        "ignore_eos": True, "method": ["plain", "lookup"][i // 2]})[2])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    events = watcher.until_idle()
    after = server.metrics()
    ticks = [tick for event in events for tick in event["ticks"]]
    grown = lambda name: after[(name, "")] - before[(name, "")]  # noqa: E731
    assert sum(event["lost"] for event in events) == 0
    numbers = [t["tick"] for t in ticks if t["rows"]]
    assert len(numbers) == grown("tutti:ticks_total") and numbers == sorted(set(numbers))
    assert sum(t["rows"] for t in ticks) == grown("tutti:rows_total")
    tokens, rows = {}, {}
    for tick in ticks:
        for request, choice, count in tick["lanes"]:
            tokens[request, choice] = tokens.get((request, choice), 0) + count
        for request, count in tick["parts"]:
            rows[request] = rows.get(request, 0) + count
        assert tick["rows"] == 0 or sum(count for _, count in tick["parts"]) == tick["rows"]
    lanes = sorted(tokens.values())
    assert lanes == sorted([12, 13, 13, 14, 15, 15]) and len(rows) == 4
    assert sorted(rows.values()) == sorted(a["usage"]["tutti"]["rows"] for a in answers)
    assert sorted(r for t in ticks for r in t["ended"]) == sorted(rows)
    # No word of anybody's text.
    assert not re.search(r"one|Number", json.dumps(events))
    assert any(event["running"] > 0 for event in events) and any(event.get("pages", 0) > event.get("free_pages", 0) for event in events)
    watcher.close()


def test_a_masked_model_shows_its_positions():
    server = Server("-t", "1", "-q", model=SUDOKU)
    try:
        listed = json.loads(server.request("GET", "/v1/methods")[2])["models"][0]
        assert not listed["chat"] and listed["auto"] == "diffusion" and listed["methods"] == ["diffusion", "freedave"]
        watcher = Watcher(server)
        answer = json.loads(server.request("POST", "/v1/completions", {
            "prompt": "1003200000140002\n", "max_tokens": 19, "temperature": 0,
            "method_options": {"policy": "static", "early_stop": "0"}})[2])
        events = watcher.until_idle()
        canvases = [c for event in events for t in event["ticks"] for c in t["canvases"]]
        written = [p for _, _, _, positions in canvases for p in positions]
        assert answer["usage"]["completion_tokens"] == 16 and answer["usage"]["tutti"]["forwards"] == 19
        assert {length for _, _, length, _ in canvases} == {19} and sorted(written) == list(range(19))
        assert all(len(positions) == 1 for _, _, _, positions in canvases)  # policy static: one a forward
        watcher.close()
        assert server.stop() == 0
    finally:
        server.process.kill()


def test_keys_limits_and_no_page():
    server = Server("-t", "1", "-q", "--api-key", "secret")
    try:
        assert server.request("GET", "/")[0] == 200  # it holds nothing of anybody's
        assert server.error("GET", "/v1/methods")[0] == server.error("GET", "/tutti/events")[0] == 401
        key = {"Authorization": "Bearer secret"}
        status, headers, _ = server.request("HEAD", "/tutti/events", headers=key)
        assert status == 200
        watchers = [Watcher(server, **key) for _ in range(16)]
        status, error, headers = server.error("GET", "/tutti/events", headers=key)
        assert status == 503 and "16 pages watch" in error["message"] and headers["retry-after"]
        watchers.pop().close()
        end = time.monotonic() + 10
        while True:  # its place is free once the server has seen that it has gone
            try:
                watchers.append(Watcher(server, **key))
                break
            except AssertionError:
                assert time.monotonic() < end
                time.sleep(0.1)
        assert watchers[-1].event()["running"] == 0
        # Watchers do not keep a server from ending.
        start = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - start < 10
    finally:
        server.process.kill()
    server = Server("-t", "1", "-q", "--no-page")
    try:
        assert server.error("GET", "/")[0] == server.error("GET", "/tutti/events")[0] == 404
        assert server.request("GET", "/v1/methods")[0] == 200
        assert server.stop() == 0
    finally:
        server.process.kill()


@contextlib.contextmanager
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (scripts/setup.sh --browser)")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no chromium is installed (scripts/setup.sh --browser)")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


def until(page, condition, seconds=60):
    """As wait_for_function, which the page's own policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


@contextlib.contextmanager
def opened(running, server, width=1100, height=720, **options):
    """The page, and a record of what must not happen: errors, refused styles or scripts, requests to others."""
    context = running.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    wrong = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:")) else wrong.append(r.url))
    page.goto(server.url + "/")
    until(page, "document.querySelector('#method').options.length > 1")
    yield page
    assert wrong == []
    context.close()


def say(page, text):
    notes = page.locator(".note:has-text('tokens in')").count()
    page.fill("#say", text)
    page.press("#say", "Enter")
    until(page, f"document.querySelectorAll('#log > .note').length > {notes} && !document.querySelector('#send').disabled")


def keep(page, name):
    if folder := os.environ.get("TUTTI_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def set_fields(page, **values):
    page.evaluate("v => { for (const [id, value] of Object.entries(v)) document.getElementById(id).value = value }", values)


def test_a_person_talks_to_it(server):
    with browser() as running, opened(running, server) as page:
        assert page.evaluate("document.activeElement.id") == "say"
        set_fields(page, temperature=0, max_tokens=24, seed=3)
        say(page, "Name three colours.")
        answer = server.client().chat.completions.create(
            model="smollm2", max_tokens=24, temperature=0, seed=3, top_p=0.95,
            messages=[{"role": "user", "content": "Name three colours."}]).choices[0].message.content
        assert page.locator(".answers .turn").all_text_contents() == [answer]
        assert page.evaluate("document.querySelector('#whose').hidden")  # there is one model
        # The second turn knows the first; four samples are four lanes.
        page.locator("summary").press("Enter")
        page.select_option("#method", "lookup")
        assert page.locator("#about").text_content().endswith("lossless")
        assert page.locator("#options input").count() >= 1
        page.locator("summary").press("Enter")
        set_fields(page, n=4, temperature=0.9, max_tokens=80)
        page.evaluate("window.most = 0; setInterval(() => { most = Math.max(most, lanes.size) }, 20)")
        say(page, "Tell me a story about one of them.")
        assert page.locator(".answers").nth(1).locator(".turn").count() == 4
        assert page.evaluate("most") >= 4
        assert "lookup: " in page.locator("#log > .note").last.text_content()
        assert page.evaluate("messages.length") == 4
        keep(page, "page")
        # What anybody writes is text.
        set_fields(page, n=1, max_tokens=2)
        say(page, "<img src=x onerror=\"document.title='taken'\"><b>bold</b>")
        assert page.locator("#log img, #log b").count() == 0 and page.title() == "Tutti"
        # Esc stops.
        set_fields(page, max_tokens=4000)
        page.fill("#say", "Count to a million.")
        page.press("#say", "Enter")
        until(page, "!document.querySelector('#stop').disabled")
        page.keyboard.press("Escape")
        until(page, "!document.querySelector('#send').disabled")
        assert "stopped" in page.locator("#log > .note").last.text_content()
        end = time.monotonic() + 10
        while server.metrics()[("tutti:num_requests_running", "")] > 0:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_on_a_phone_in_the_dark(server):
    with browser() as running, opened(running, server, 360, 700, color_scheme="dark", has_touch=True) as page:
        set_fields(page, max_tokens=60, n=2, temperature=0.8)
        say(page, "What is a river?")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        box = page.locator("#say").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 700
        dark = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 64")  # noqa: E731
        assert dark()
        keep(page, "phone")
        page.click("#theme")
        assert not dark()


def test_what_goes_wrong_is_said():
    server = Server("-t", "1", "-q", "--api-key", "secret")
    try:
        with browser() as running:
            context = running.new_context()
            page = context.new_page()
            page.goto(server.url + "/")
            page.locator(".bad").wait_for()
            assert "API key" in page.locator(".bad").text_content()
            page.fill("#key", "secret")
            page.press("#key", "Tab")
            until(page, "document.querySelector('#method').options.length > 1")
            set_fields(page, max_tokens=3)
            say(page, "Hello")
            assert page.locator(".answers .turn").text_content()
            page.select_option("#method", "beam")  # the settings are open: the key was asked for
            page.fill("#options input[name=width]", "many")
            page.fill("#say", "Hello")
            page.press("#say", "Enter")
            page.locator(".bad:has-text('width')").wait_for()
            context.close()
    finally:
        server.process.kill()
        server.process.wait()


def test_one_of_several_models_is_chosen(tmp_path):
    table = TableModel()
    script = table.say(["the table speaks"])
    path = table.write(tmp_path / "table.gguf", "{% for m in messages %}{{ m.content }}{% endfor %}")
    server = Server("-t", "1", "-q", "-m", SUDOKU, "-m", "minilm", "-m", path)
    try:
        with browser() as running, opened(running, server) as page:
            shown = page.evaluate("[...document.querySelector('#which').options].map(o => o.value)")
            assert shown == ["smollm2", "sudoku", "table.gguf"]  # those that write text
            page.locator("summary").press("Enter")
            page.select_option("#which", "sudoku")
            assert page.evaluate("document.querySelector('#method').value") == "auto"
            assert "diffusion" in page.locator("#method option").first.text_content()
            page.select_option("#which", "table.gguf")
            page.locator("summary").press("Enter")
            set_fields(page, max_tokens=24, temperature=0)
            say(page, script)
            assert page.locator(".answers .turn").all_text_contents() == ["the table speaks"]
            assert page.locator("#model").text_content() == "table.gguf"
            until(page, "[...lanes.values()].length >= 1")  # the score is the chosen model's
    finally:
        assert server.stop() == 0
