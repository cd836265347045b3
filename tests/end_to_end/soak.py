"""Many short requests of every kind, some of which their clients give up, and what must be left of them: nothing.

A client that gives up does so in one of five ways: before it has sent its whole body; right behind it; a moment later; when
pieces of a stream have come; and by a reset of the connection. The process is looked at through /proc, the server through
/metrics: no page of keys and values is held but by the prefix cache, no thread and no descriptor is left over, and every
request that arrived was counted once."""

import concurrent.futures
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path

from mixed_requests import WITHOUT_TEXT, events_of


class Process:
    """What a process of Linux holds."""

    def __init__(self, pid):
        self.folder = Path(f"/proc/{pid}")

    def status(self, name):
        return int(next(line for line in (self.folder / "status").read_text().splitlines()
                        if line.startswith(name + ":")).split()[1])

    def megabytes(self):
        """Resident and its own: the pages of files that are mapped come and go."""
        return self.status("RssAnon") / 1024

    def threads(self):
        return self.status("Threads")

    def descriptors(self):
        return len(os.listdir(self.folder / "fd"))


def head_of(path, length):
    return (f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
            "Connection: close\r\n\r\n").encode()


def receive(s, enough=lambda data: False):
    data = b""
    while not enough(data) and (part := s.recv(65536)):
        data += part
    return data


def unchunk(body):
    text = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        text, body = text + body[:int(size, 16)], body[int(size, 16) + 2:]
    return text


def held_when_idle(server):
    """Threads and descriptors of a server that has answered something of every kind of work: vectors have a thread."""
    assert server.request("POST", "/v1/embeddings", {"input": "a"})[0] == 200
    process = Process(server.process.pid)
    # The connection that asked goes a moment later.
    end, descriptors = time.monotonic() + 10, process.descriptors()
    while time.monotonic() < end and process.descriptors() >= descriptors:
        time.sleep(0.01)
    return process.threads(), process.descriptors()


class Soak:
    WAYS = ["cut", "at once", "soon", "in the stream", "reset"]

    def __init__(self, server, kinds, cancelled=0.3, clients=24, seed=1):
        self.server, self.kinds, self.share, self.clients = server, kinds, cancelled, clients
        self.seed, self.lock, self.seen = seed, threading.Lock(), Counter()

    def note(self, **counts):
        with self.lock:
            self.seen.update(counts)

    def give_up(self, s, way, path, data, draw):
        if way == "cut":
            s.sendall(head_of(path, len(data) + 1) + data)
            return self.note(cut=1)
        s.sendall(head_of(path, len(data)) + data)
        self.note(given_up=1)
        if way == "soon":
            time.sleep(draw.random() * 0.02)
        if way in ("in the stream", "reset"):
            receive(s, lambda got: got.count(b"data: ") > draw.randint(1, 4) or b"\r\n0\r\n" in got)
        if way == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def finish(self, s, path, body, data):
        s.sendall(head_of(path, len(data)) + data)
        answer = receive(s)
        head, _, text = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), (path, body, answer[:2000])
        if b"chunked" in head.lower():
            text = unchunk(text)
        prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        if path in WITHOUT_TEXT:
            return self.note(answered=1, runs=1, stop=1, prompt_tokens=json.loads(text)["usage"]["prompt_tokens"])
        if body.get("stream"):
            events = events_of(text.decode())
            usage = events[-1]["usage"]
            reasons = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
        else:
            usage = json.loads(text)["usage"]
            reasons = [c["finish_reason"] for c in json.loads(text)["choices"]]
        assert len(reasons) == prompts * body.get("n", 1)
        self.note(answered=1, runs=prompts, prompt_tokens=usage["prompt_tokens"], tokens=usage["completion_tokens"],
                  **Counter(reasons))

    def one(self, job, draw):
        path, body = job
        gives_up = draw.random() < self.share
        body = {k: v for k, v in body.items() if k != "logprobs"} if draw.random() < 0.5 and "top_logprobs" not in body else body
        if path not in WITHOUT_TEXT:
            if gives_up and isinstance(body.get("prompt"), list):
                body["prompt"] = body["prompt"][0]  # one request is one run
            if gives_up and draw.random() < 0.7:
                body.update(max_tokens=500, stream=draw.random() < 0.7)  # or it is over before its client is gone
            if body.get("stream"):
                body["stream_options"] = {"include_usage": True}
            else:
                body.pop("stream_options", None)
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=120) as s:
            if not gives_up:
                return self.finish(s, path, body, data)
            streams = body.get("stream")
            self.give_up(s, draw.choice(self.WAYS if streams else self.WAYS[:3]), path, data, draw)

    def run(self, count):
        """`count` requests more; raises what a client found wrong."""
        self.seed += 1
        draws = [random.Random(f"{self.seed} {i}") for i in range(count)]
        jobs = self.kinds.make(count, self.seed)
        with concurrent.futures.ThreadPoolExecutor(self.clients) as pool:
            for done in [pool.submit(self.one, job, draw) for job, draw in zip(jobs, draws)]:
                done.result()

    def settle(self, threads, descriptors, seconds=30):
        """Waits until nothing runs, and the process holds no more than before."""
        process, end = Process(self.server.process.pid), time.monotonic() + seconds
        while True:
            now = {name: value for (name, _), value in self.server.metrics().items()}
            left = {"running": now["tutti:num_requests_running"], "waiting": now["tutti:num_requests_waiting"],
                    "pages": now["tutti:kv_pages"] - now["tutti:kv_pages_free"] - now["tutti:kv_pages_cached"],
                    "descriptors": process.descriptors() - descriptors, "threads": process.threads() - threads}
            if not any(left.values()):
                return
            assert time.monotonic() < end, left
            time.sleep(0.05)

    def reconcile(self, before, after):
        """Counters of /metrics against what clients counted. Of those that were given up the server may have finished some."""
        grown = {key: after[key] - before[key] for key in after}
        total = lambda name: grown[("tutti:" + name, "")]
        ended = lambda reason: grown[("tutti:request_success_total", reason)]
        seen, given_up = self.seen, self.seen["given_up"]
        assert total("e2e_request_latency_seconds_count") == seen["runs"] + given_up, (grown, seen)
        assert ended("error") == 0 == total("requests_refused_total")
        finished = given_up - ended("abort")  # given up, and finished all the same
        choices = ended("stop") + ended("length") - seen["stop"] - seen["length"]
        assert 0 <= finished <= choices <= 5 * finished and all(ended(r) >= seen[r] for r in ("stop", "length"))
        prompt_tokens = total("prompt_tokens_total") - seen["prompt_tokens"]
        tokens = total("generation_tokens_total") - seen["tokens"]
        if given_up:
            assert ended("abort") > 0 and prompt_tokens > 0 and 0 < tokens <= 2500 * given_up
        else:
            assert prompt_tokens == tokens == 0
        return {"answered": seen["answered"], "given up": given_up, "aborted": int(ended("abort")), "cut off": seen["cut"],
                "tokens": seen["tokens"]}
