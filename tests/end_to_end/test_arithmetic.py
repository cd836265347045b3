"""Classes of arithmetic and levels of instructions on a real model: a class has the same bits at every level of this
machine, another class has others."""

import os
import re

import pytest
from user import tutti

CLASSES = ["exact-q8", "exact-f32", "bf16-dot", "w8a8-row"]
IDS = "504,1156,282,253,2591,11,19,28,3,7,506"


def environment(level):
    return {**os.environ, "TUTTI_ISA": level}


def levels():
    """Those of this machine, as the refusal of another one lists them."""
    done = tutti("eval", "logits", "-m", "smollm2", "--ids", "1", "--out", os.devnull, env=environment("none"))
    assert done.code == 2, done.err
    listed = re.search(r"TUTTI_ISA: 'none' is no instruction set; choose one of ([a-z0-9, ]+)", done.err)
    assert listed, done.err
    return listed[1].split(", ")


@pytest.fixture(scope="module")
def logits(tmp_path_factory):
    """Bytes of the logits by class and level."""
    folder = tmp_path_factory.mktemp("logits")
    found = {}
    for name in CLASSES:
        for level in levels():
            out = folder / f"{name}-{level}"
            done = tutti("eval", "logits", "-m", "smollm2", "--ids", IDS, "--arithmetic", name, "--out", out,
                         env=environment(level))
            assert done.code == 0, done.err
            found[name, level] = out.read_bytes()
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_every_level_gives_the_same_bits(logits, name):
    assert len(logits[name, "scalar"]) == 11 * 49152 * 4
    for level in levels():
        assert logits[name, level] == logits[name, "scalar"], level


def test_classes_differ(logits):
    assert len({logits[name, "scalar"] for name in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("level", ["avx2", "avxvnni", "avx512", "amx"])
def test_a_level_that_is_not_there_is_refused(level):
    if level in levels():
        pytest.skip(f"this machine has {level}")
    done = tutti("eval", "logits", "-m", "smollm2", "--ids", "1", "--out", os.devnull, env=environment(level))
    assert done.code == 2
    assert f"TUTTI_ISA: this machine cannot run '{level}'; choose one of scalar" in done.err
