"""Tokens and log-probabilities of 1, 4, 16 and 64 clients, methods mixed, are those of a lone client."""

import pytest
import random_model
from mixed_requests import Kinds, check_equality
from server import Server

METHODS = ["lookup", "early-exit", "ppd"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    return random_model.write(folder / "random.gguf"), random_model.write_prompt_tokens(folder / "prompts")


# With room, and with so few pages that requests are put off and computed again.
@pytest.mark.parametrize("arguments", [["--kv-pages", "2048"], ["--kv-pages", "100", "-t", "2", "--kv", "i8"]])
def test_every_number_of_clients_gets_what_a_lone_one_gets(files, arguments):
    model, prompts = files
    server = Server("-q", "-t", "1", "-N", "64", "-o", f"prompt_tokens={prompts}", "-o", "rows=8", *arguments, model=model)
    try:
        jobs = Kinds("random.gguf", METHODS).make(85, seed=7)
        alone = check_equality(server.port, jobs)
        metrics = server.metrics()
        # The load was one: requests ran together, cached prompts and drafts were taken, and texts differ.
        assert metrics[("tutti:rows_total", "")] > 2 * metrics[("tutti:ticks_total", "")]
        assert metrics[("tutti:prefix_cache_hits_total", "")] > 0
        assert 0 < metrics[("tutti:spec_decode_num_accepted_tokens_total", "")]
        assert (metrics[("tutti:num_preemptions_total", "")] > 0) == ("100" in arguments)
        texts = [c["text"] for choices, _ in alone if isinstance(choices, dict) for c in choices.values()]
        assert len(set(texts)) > 0.9 * len(texts)
        reasons = {c["finish_reason"] for choices, _ in alone if isinstance(choices, dict) for c in choices.values()}
        assert reasons == {"stop", "length"}
    finally:
        assert server.stop() == 0
