"""`tutti bench serve`: what it says of a server is what the server says of itself; and servers that are none."""

import http.server
import json
import signal
import subprocess
import threading
import time

import pytest
from server import Server
from user import TUTTI, jsonl, tutti


@pytest.fixture(scope="module")
def server():
    running = Server("-t", "1", "-q")
    yield running
    assert running.stop() == 0


def bench(url, *arguments, **options):
    return tutti("bench", "serve", url, "--prompt-tokens", "8-16", "--output-tokens", "6", "--lone", "2", "--json", "-q",
                 *arguments, **options)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_idle(server):
    end = time.monotonic() + 20
    while server.metrics()[("tutti:num_requests_running", "")] > 0:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_counts_are_those_of_the_servers_metrics(server, tmp_path):
    before = server.metrics()
    done = bench(server.url, "--clients", "1,3", "--requests", "7", "--records", tmp_path / "r", "--svg", tmp_path / "plot").json()
    after = server.metrics()
    grown = lambda name, reason="": after[(name, reason)] - before[(name, reason)]
    runs = [done["lone"], *done["levels"]]
    assert [r["completed"] for r in runs] == [2, 7, 7] and [r["requests"] for r in runs] == [2, 7, 7]
    assert grown("tutti:request_success_total", "length") == 16
    assert grown("tutti:generation_tokens_total") == sum(r["output_tokens"] for r in runs) == 16 * 6
    assert grown("tutti:prompt_tokens_total") == sum(r["prompt_tokens"] for r in runs)
    assert grown("tutti:prefix_cache_hits_total") == sum(r["cached_tokens"] for r in runs)
    assert grown("vllm:time_to_first_token_seconds_count") == 16
    # A client sees what the server does, and the way there and back; sums over the same requests.
    for ours, name in (("e2e_ms", "e2e_request_latency_seconds"), ("ttft_ms", "time_to_first_token_seconds")):
        seen = sum(r[ours]["mean"] * r[ours]["count"] for r in runs) / 1e3
        served = grown(f"vllm:{name}_sum")
        assert served <= seen
    lines = records(tmp_path / "r")
    assert len(lines) == 14 and {line["clients"] for line in lines} == {1, 3}
    for level in done["levels"]:
        own = [line for line in lines if line["clients"] == level["clients"]]
        assert sum(line["output_tokens"] for line in own) == level["output_tokens"]
        assert level["output_tok_s"] == pytest.approx(level["output_tokens"] / max(line["end"] for line in own))
        assert level["most_in_flight"] == level["clients"]
        assert 0 < level["client_cpu_percent"] < 100
    assert all(line["sent"] < line["first_text"] <= line["end"] for line in lines)
    # One client never has two requests at a time.
    alone = sorted((line["sent"], line["end"]) for line in lines if line["clients"] == 1)
    assert all(a[1] <= b[0] for a, b in zip(alone, alone[1:]))
    for name in ("throughput", "latency"):
        assert (tmp_path / f"plot.{name}.svg").read_text().startswith("<svg")


def test_a_seed_gives_the_same_load(server, tmp_path):
    load = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        bench(server.url, "--clients", "2", "--requests", "8", "--seed", seed, "--output-tokens", "2-9",
              "--records", tmp_path / name).json()
        load.append([(r["prompt_tokens"], r["output_tokens"]) for r in records(tmp_path / name)])
    assert load[0] == load[1] != load[2]
    spread = {prompt for prompt, _ in load[0]}
    assert max(spread) - min(spread) <= 8  # 8 to 16 tokens as the server counts them, and the same template


def test_clients_that_go_away(server, tmp_path):
    before = server.metrics()
    done = bench(server.url, "--rate", "40", "--arrivals", "bursts", "--burst", "6", "--requests", "24", "--cancel", "0.5",
                 "--output-tokens", "24", "--records", tmp_path / "r").json()
    wait_for_idle(server)
    after = server.metrics()
    level = done["levels"][0]
    assert level["completed"] + level["cancelled"] == 24 and level["cancelled"] >= 4 and level["failed"] == 0
    grown = lambda reason: after[("tutti:request_success_total", reason)] - before[("tutti:request_success_total", reason)]
    assert grown("length") == level["completed"] + done["lone"]["completed"]
    # One that goes at once may not have been heard.
    assert level["cancelled"] - 2 <= grown("abort") <= level["cancelled"]
    sent = [r["sent"] for r in records(tmp_path / "r")]
    # Six at once, and the next six not before the rate allows them, however late a busy machine makes them.
    assert all(sent[i] >= 0.15 * (i // 6) - 0.01 for i in range(24))


def test_long_prompts_shared_prefixes_and_methods(server):
    done = bench(server.url, "--clients", "3", "--requests", "10", "--long-share", "0.3", "--long-prompt-tokens", "300",
                 "--shared-prefix", "64", "--temp", "0.7", "--extra", '{"method": "lookup", "top_k": 5}').json()
    groups = done["levels"][0]["groups"]
    short, long = groups["short prompts"], groups["long prompts"]
    assert short["completed"] + long["completed"] == 10 and long["completed"] > 0
    assert long["prompt_tokens"] / long["completed"] > 300 + 64 > short["prompt_tokens"] / short["completed"] > 64
    assert short["cached_tokens"] >= 32 * (short["completed"] - 3)
    assert done["lone_long"]["completed"] == 2 and done["goals_long"]["ttft_ms"] > done["goals"]["ttft_ms"]
    assert done["extra"] == {"method": "lookup", "top_k": 5}


def test_whole_completions_of_a_file(server, tmp_path):
    lines = [{"prompt": f"The number {i} is", "arrival": 0.05 * (3 - i), "output_tokens": 2 + i} for i in range(4)]
    trace = jsonl(tmp_path / "trace", lines)
    done = bench(server.url, "--api", "completions", "--no-stream", "--prompts", trace, "--arrivals", "trace",
                 "--records", tmp_path / "r").json()
    own = records(tmp_path / "r")
    assert [r["output_tokens"] for r in own] == [5, 4, 3, 2]  # by arrival
    assert all(r["sent"] >= 0.05 * i for i, r in enumerate(own))
    assert done["levels"][0]["ttft_ms"]["count"] == 0 and done["goals"]["ttft_ms"] is None
    text = tutti("bench", "serve", server.url, "--prompts", trace, "--clients", "2", "--requests", "6", "--lone", "1", "-q")
    assert text.code == 0 and "a lone client" in text.out and "6     0     0" in text.out


def test_what_the_server_refuses_is_counted(tmp_path):
    server = Server("-t", "1", "-q", "--max-num-seqs", "1", "--max-queue", "0", "--api-key", "secret")
    try:
        locked = bench(server.url)
        assert locked.code == 1 and "401" in locked.err and "--api-key" in locked.err
        done = bench(server.url, "--api-key", "secret", "--clients", "3", "--requests", "9").json()
        level = done["levels"][0]
        assert level["failed"] > 0 and level["completed"] + level["failed"] == 9
        assert level["failures"]["HTTP 429"]["count"] == level["failed"]
        assert "queue of 0 requests is full" in level["failures"]["HTTP 429"]["message"]
        unknown = bench(server.url, "--api-key", "secret", "--model", "other")
        assert unknown.code == 1 and "HTTP 404" in unknown.err and "not served" in unknown.err
    finally:
        server.process.kill()
        server.process.wait()


class Strange(http.server.BaseHTTPRequestHandler):
    """Something that is no such server."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_servers_that_are_none():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange) as strange:
        threading.Thread(target=strange.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{strange.server_port}"
        listed = bench(url)
        assert listed.code == 1 and "lists no model (<html>)" in listed.err and url in listed.err
        named = bench(url, "--model", "x")
        assert named.code == 1 and "a wrong answer (what came is no JSON: <html>)" in named.err
        strange.shutdown()
    dead = bench(url)
    assert dead.code == 1 and "no connection" in dead.err and "is a server running there?" in dead.err
    for arguments, words in [(["https://x"], "https is not spoken"), (["http://x:y"], "no port"), ([url, "--extra", "[1]"], "JSON object"),
                             ([url, "--arrivals", "trace"], "wants --prompts"), ([url, "--prompt-tokens", "9-3"], "is no range"),
                             ([url, "--rate", "0"], "--rate"), ([url, "--clients", "0"], "--clients 0")]:
        wrong = tutti("bench", "serve", *arguments)
        assert wrong.code == 2 and words in wrong.err, wrong.err


def test_an_interrupt_reports_what_there_is(server):
    process = subprocess.Popen([TUTTI, "bench", "serve", server.url, "--clients", "2", "--requests", "5000", "--output-tokens", "8",
                                "--lone", "1", "--json", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = server.metrics()[("tutti:request_success_total", "length")]
    end = time.monotonic() + 60
    while server.metrics()[("tutti:request_success_total", "length")] < before + 12:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1 and "interrupted" in err
    done = json.loads(out)
    level = done["levels"][0]
    assert done["interrupted"] and 5 <= level["completed"] < 5000 and level["completed"] + level["interrupted"] == 5000
    wait_for_idle(server)
