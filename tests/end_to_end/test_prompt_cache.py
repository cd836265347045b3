"""`tutti run --prompt-cache`: the same tokens with and without the file, fewer rows, and no file taken on trust."""

import pytest
from user import tutti

PROMPT = "Name three rivers of Europe and say in one sentence where each of them ends."


def run(*arguments) -> dict:
    return tutti("run", "-m", "smollm2", "-n", 6, "--json", *arguments).json()


def refused(*words, arguments):
    done = tutti("run", "-m", "smollm2", "-n", 1, *arguments)
    assert done.code == 1 and done.out == "", done.err
    for word in words:
        assert word in done.err, done.err


@pytest.mark.parametrize("options", [["--method", "plain"], ["--method", "beam", "-o", "width=3"],  # whose rows can be counted
                                     ["--method", "plain", "--samples", "2", "--seed", "3", "--temp", "0.8"]])
def test_same_tokens_and_fewer_rows(tmp_path, options):
    file = tmp_path / "prompt.cache"
    expected = run("-p", PROMPT, *options)
    first = run("-p", PROMPT, "--prompt-cache", file, *options)
    again = run("-p", PROMPT, "--prompt-cache", file, *options)
    prompt = first["stats"]["prompt_tokens"]
    assert expected["ids"] == first["ids"] == again["ids"]
    assert expected.get("choices") == first.get("choices") == again.get("choices")
    assert first["stats"]["prompt_cache_tokens"] == 0
    assert again["stats"]["prompt_cache_tokens"] == prompt - 1
    assert first["stats"]["rows"] - again["stats"]["rows"] == prompt - 1


def test_a_shared_beginning_is_used_and_the_file_follows(tmp_path):
    file = tmp_path / "prompt.cache"
    plain = run("-p", PROMPT)
    other = run("-p", "Name three rivers of Asia.", "--prompt-cache", file)
    before = file.read_bytes()
    shared = next(i for i, (a, b) in enumerate(zip(other["prompt_ids"], plain["prompt_ids"])) if a != b)
    read_only = run("-p", PROMPT, "--prompt-cache", file, "--prompt-cache-ro")
    assert read_only["ids"] == plain["ids"]
    assert read_only["stats"]["prompt_cache_tokens"] == shared > 0
    assert file.read_bytes() == before
    assert run("-p", PROMPT, "--prompt-cache", file)["ids"] == plain["ids"]
    assert run("-p", PROMPT, "--prompt-cache", file)["stats"]["prompt_cache_tokens"] == len(plain["prompt_ids"]) - 1


def test_what_does_not_fit_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "prompt.cache"
    run("-p", PROMPT, "--prompt-cache", file)
    whole = file.read_bytes()
    use = ["-p", PROMPT, "--prompt-cache", file]
    refused("prompt.cache", "--kv", arguments=[*use, "--kv", "i8"])
    refused("prompt.cache", "arithmetic", arguments=[*use, "--arithmetic", "exact-f32"])
    assert file.read_bytes() == whole
    file.write_bytes(whole[: len(whole) // 2])
    refused("not a sound saved context", arguments=use)
    foreign = tmp_path / "notes.txt"
    foreign.write_text("somebody's notes, longer than the header of a saved context\n")
    refused("notes.txt", "not a saved context", arguments=["-p", PROMPT, "--prompt-cache", foreign])
    assert foreign.read_text().startswith("somebody's")
