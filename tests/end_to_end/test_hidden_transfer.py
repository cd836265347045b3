"""Hidden Transfer with the maps that were trained here: the text of plain decoding in fewer forwards, on the real model."""

import importlib.util
from pathlib import Path

import pytest
from user import jsonl, tutti

ROOT = Path(__file__).resolve().parents[2]
MAPS = ROOT / "weights/smollm2-transfer"

spec = importlib.util.spec_from_file_location("lossless", ROOT / "tests/study/lossless.py")
lossless = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lossless)


def run(*arguments):
    return tutti("run", "-m", "smollm2", "--method", "hidden-transfer", "-o", f"maps={MAPS}", *arguments, timeout=600)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_fifty_prompts_are_those_of_plain(tmp_path, temperature):
    prompts = [{"prompt": text, "seed": i} for i, text in enumerate(lossless.prompts(50))]
    done = run("--prompts", jsonl(tmp_path / "prompts.jsonl", prompts), "-n", 24, "--temp", temperature,
               "-o", "adaptive=0", "--verify-only")
    assert done.code == 0, done.err
    assert "50 prompts" in done.out and "as plain decoding" in done.out


def test_drafts_stand():
    answer = run("-p", "Explain photosynthesis to a child.", "-n", 64, "-o", "adaptive=0", "--json").json()
    method = answer["stats"]["method"]
    assert method["accepted"] > 10
    assert sum(method["accepted_by_position"]) == method["accepted"]
    assert len(answer["ids"]) / method["forwards"] > 1.15


def test_maps_of_another_model_are_refused(tmp_path):
    for file in MAPS.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"layers": 30', '"layers": 31'))
    done = tutti("run", "-m", "smollm2", "--method", "hidden-transfer", "-o", f"maps={tmp_path}", "-p", "x", "-n", 2)
    assert done.code != 0
    assert "number of layers is 31, this one's is 30" in done.err
