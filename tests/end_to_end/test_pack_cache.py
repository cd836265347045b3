"""Packed weights kept between runs: the same answers, bad files refused, and what bench says of load and memory."""

import os
import re

import pytest
from user import tutti

ANSWER = ["run", "-m", "smollm2", "-p", "Name three rivers.", "-n", 8, "--temp", 0, "--json"]


@pytest.fixture(scope="module")
def expected():
    answer = tutti(*ANSWER, "--pack-cache", "off").json()
    assert len(answer["ids"]) == 8
    return answer["ids"]


def packed(folder):
    (file,) = folder.glob("*.packed")
    return file


def test_same_answer_packed_kept_and_found(tmp_path, expected):
    folder = tmp_path / "made" / "below"
    for _ in range(2):
        done = tutti(*ANSWER, "--pack-cache", folder)
        assert done.json()["ids"] == expected and done.err == ""
    file = packed(folder)
    assert file.stat().st_mode & 0o777 == 0o600
    first = file.stat().st_ino
    environment = {**os.environ, "TUTTI_PACK_CACHE": str(folder)}
    assert tutti(*ANSWER, env=environment).json()["ids"] == expected
    assert packed(folder).stat().st_ino == first  # found, not made again


def test_default_folder_and_other_levels(tmp_path, expected):
    environment = {k: v for k, v in os.environ.items() if k != "TUTTI_PACK_CACHE"}
    environment["TUTTI_CACHE"] = str(tmp_path)
    assert tutti(*ANSWER, env=environment).json()["ids"] == expected
    assert len(list((tmp_path / "packed").glob("*.packed"))) == 1
    environment["TUTTI_ISA"] = "avx2"  # a file of its own, the same bits
    assert tutti(*ANSWER, env=environment).json()["ids"] == expected
    assert len(list((tmp_path / "packed").glob("*.packed"))) == 2


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "folder"])
def test_bad_files_are_packed_again(tmp_path, expected, damage):
    tutti(*ANSWER, "--pack-cache", tmp_path).json()
    file = packed(tmp_path)
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2:]
    if damage == "changed":
        data[len(data) - 12345] ^= 4
    if damage == "empty":
        data.clear()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes(data)
    done = tutti(*ANSWER, "--pack-cache", tmp_path)
    assert done.json()["ids"] == expected
    assert str(file) in done.err and "packed again" in done.err
    done = tutti(*ANSWER, "--pack-cache", tmp_path)
    assert done.json()["ids"] == expected and done.err == ""


def test_folder_that_cannot_be(tmp_path, expected):
    taken = tmp_path / "file"
    taken.write_text("x")
    done = tutti(*ANSWER, "--pack-cache", taken)
    assert done.json()["ids"] == expected and "note: " in done.err and str(taken) in done.err
    done = tutti(*ANSWER, env={**os.environ, "TUTTI_CACHE": str(taken)})  # nobody asked for it by name
    assert done.json()["ids"] == expected and done.err == ""


def test_bench_reports_load_and_memory(tmp_path):
    command = ["bench", "-m", "smollm2", "--prompt-rows", 8, "--streams", 0, "--repeats", 1, "--pack-cache"]
    seen = [tutti(*command, where, "--json").json() for where in ("off", tmp_path, tmp_path)]
    assert [d["weights_from"] for d in seen] == ["memory", "new cache file", "cache"]
    for document in seen:
        assert 0 < document["load_seconds"] < 60
        # The weights once, and less than as much again beside them.
        assert document["weight_bytes"] < document["peak_rss_bytes"] < 1.9 * document["weight_bytes"]
    table = tutti(*command, tmp_path).out
    assert re.search(r"loaded in \d+\.\d{3} s \(from cache\), peak memory \d+\.\d MiB", table)
