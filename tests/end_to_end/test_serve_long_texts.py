"""Long texts hold up nobody: while the longest body that is taken is encoded, other connections are answered."""

import json
import random
import threading
import time

import pytest
from server import Server

WORDS = ["harbour", "lantern", "seventeen", "quietly", "of", "the", "and", "a", "ferry", "x", "1984", "naïve", "(see", "below)", "wharf.\n"]


@pytest.fixture(scope="module")
def server():
    running = Server("-q", "-t", "1", "--max-body", str(9 << 20))
    yield running
    assert running.stop() == 0


def words(size, seed=7):
    draw = random.Random(seed)
    text = " ".join(draw.choice(WORDS) for _ in range(size // 4))
    return text[:size]


BODIES = {
    "a chat": ("/v1/chat/completions", lambda: {"messages": [{"role": "user", "content": words(8 << 20)}], "max_tokens": 1}, 400),
    "a chat of many messages": ("/v1/chat/completions", lambda: {"messages": [{"role": "user", "content": "a b"}] * 180000, "max_tokens": 1}, 400),
    "a completion of ids": ("/v1/completions", lambda: {"prompt": [1] * (2 << 20), "max_tokens": 1}, 400),
    "objects of many keys": ("/v1/completions", lambda: {"prompt": "a", "max_tokens": 1, "x": [{f"k{i}": 0 for i in range(4000)}] * 130}, 200),
    "a completion": ("/v1/completions", lambda: {"prompt": words(8 << 20), "max_tokens": 1}, 400),
    "tokens": ("/tokenize", lambda: {"content": words(8 << 20)}, 200),
}


@pytest.mark.parametrize("name", BODIES)
def test_others_are_answered_meanwhile(server, name):
    path, make, status = BODIES[name]
    body = json.dumps(make(), ensure_ascii=False).encode()
    assert len(body) > 4 << 20
    seen = {}

    def ask():
        start = time.monotonic()
        seen["answer"] = server.request("POST", path, body)
        seen["seconds"] = time.monotonic() - start

    asking = threading.Thread(target=ask)
    asking.start()
    longest, answered = 0, 0
    while asking.is_alive():
        start = time.monotonic()
        assert server.request("GET", "/health")[0] == 200
        longest, answered = max(longest, time.monotonic() - start), answered + 1
    asking.join()
    got, _, text = seen["answer"]
    assert got == status, text[:500]
    if status == 400:
        assert json.loads(text)["error"]["code"] in ("context_length_exceeded", None)
    # Of the long request's time, whatever that is here, nobody else waits for half.
    assert longest < seen["seconds"] / 2, (longest, seen["seconds"], answered)
    print(f"{name}: {seen['seconds']:.2f} s, the longest wait of {answered} others {longest:.3f} s")


def test_more_bodies_than_can_wait_are_refused(server):
    """A hundred bodies of 4 MiB at once, each half a second's reading: 64 MiB of them may wait."""
    body = json.dumps({"prompt": [1] * (1 << 20), "max_tokens": 1, "x": "y" * (1 << 20)}).encode()
    answers = []

    def ask():
        answers.append(server.request("POST", "/v1/completions", body))

    asking = [threading.Thread(target=ask) for _ in range(100)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    statuses = [status for status, _, _ in answers]
    assert len(answers) == 100 and set(statuses) == {400, 429}, statuses
    for status, headers, text in answers:
        if status == 429:
            assert "long bodies" in text and {k.lower(): v for k, v in headers.items()}["retry-after"] == "1"
    assert server.request("GET", "/health")[0] == 200
    assert server.request("POST", "/tokenize", json.dumps({"content": "a"}).encode())[0] == 200
