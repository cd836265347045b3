"""A small model that reads images from its recipe to its score: trained for some steps, saved a folder a phase, asked."""

import json

import pytest
from program import ROOT
from user import tutti


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    recipe = json.loads((ROOT / "recipes/dimple-shapes.json").read_text())
    for phase in recipe["phases"]:
        phase["steps"] = 2
    diffusion = recipe["phases"][-1]
    recipe["phases"].append({**diffusion, "name": "again", "from": "instruct"})
    (folder / "recipe.json").write_text(json.dumps(recipe))
    done = tutti("train-vision", folder / "recipe.json", "-o", folder / "run", "-q")
    assert done.code == 0, done.err
    return folder / "run"


def test_a_phase_that_begins_from_another_is_that_phase_again(trained):
    assert (trained / "again/model.safetensors").read_bytes() == (trained / "diffusion/model.safetensors").read_bytes()
    assert (trained / "diffusion/model.safetensors").read_bytes() != (trained / "instruct/model.safetensors").read_bytes()
    assert len((trained / "log.jsonl").read_text().splitlines()) == 8


def test_kinds_of_questions_are_chosen_and_counted_apart(trained):
    ask = ["eval", "shapes", "-m", trained / "diffusion", "-n", "8", "-q", "--json", "--method", "diffusion", "-o",
           "policy=static"]
    some = tutti(*ask, "--kinds", "place,describe", "--problems", "12").json()
    asked = {kind: counts["asked"] for kind, counts in some["kinds"].items() if counts["asked"]}
    assert set(asked) == {"place", "describe"} and sum(asked.values()) == 12
    for total in ("right", "forwards", "tokens"):
        assert some[total] == sum(counts[total] for counts in some["kinds"].values())
    assert some["forwards"] > 0
    everything = tutti(*ask, "--problems", "60").json()
    assert all(counts["asked"] for counts in everything["kinds"].values())


def test_unknown_kinds_are_refused(trained):
    done = tutti("eval", "shapes", "-m", trained / "diffusion", "--kinds", "smell")
    assert done.code != 0 and "smell" in done.err and "caption" in done.err
