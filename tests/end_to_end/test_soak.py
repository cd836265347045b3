"""500 short requests of every kind, 30 % of them given up: nothing is left of them (10,000: tests/study/serve_soak.py)."""

import random_model
from mixed_requests import Kinds
from server import Server
from soak import Process, Soak, held_when_idle


def test_nothing_is_left_of_five_hundred_requests(tmp_path):
    model = random_model.write(tmp_path / "random.gguf")
    prompts = random_model.write_prompt_tokens(tmp_path / "prompts")
    server = Server("-q", "-t", "1", "-N", "8", "--kv-pages", "400", "-o", f"prompt_tokens={prompts}", "-o", "rows=8", model=model)
    try:
        kinds = Kinds("random.gguf", ["lookup", "early-exit", "ppd"])
        process = Process(server.process.pid)
        held = held_when_idle(server)
        # As warm-up, requests that nobody gives up: then counters agree to the last token.
        before, warm = server.metrics(), Soak(server, kinds, cancelled=0, seed=100)
        warm.run(150)
        warm.settle(*held)
        assert warm.reconcile(before, server.metrics())["answered"] == 150
        before, memory = server.metrics(), process.megabytes()
        soak = Soak(server, kinds)
        soak.run(500)
        soak.settle(*held)
        counts = soak.reconcile(before, server.metrics())
        assert counts["answered"] + counts["given up"] + counts["cut off"] == 500
        assert 90 < counts["given up"] + counts["cut off"] < 210 and counts["aborted"] > 30
        assert process.megabytes() < memory + 2
    finally:
        assert server.stop() == 0
