"""Images through the program: a random tiny Dimple answers about pictures by the methods of masked models; what cannot
be read is refused. (That the numbers are right is tests/conformance/test_vision.py's to say.)"""

import json
import subprocess

import program
import pytest
import tiny_dimple
from test_tools import expect_no_torch, maps_of
from tiny_dimple import END, PAD, START, picture
from user import TUTTI, jsonl, tutti


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dimple.write_folder(tmp_path_factory.mktemp("dimple") / "model", tiny_dimple.hf_model())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_dimple.picture_files(tmp_path_factory.mktemp("pictures"))


def ask(folder, *arguments, prompt="what is it"):
    return tutti("run", "-m", folder, "-p", prompt, "-n", "12", "--ignore-eos", "-q", *arguments)


def test_an_image_takes_its_places_in_the_prompt(folder, files):
    answer = ask(folder, "--image", files[0], "--json").json()
    place = [START] + [PAD] * 6 + [END]
    assert answer["prompt_ids"] == place + list(answer["prompt_ids"][8:]) and len(answer["ids"]) == 12
    both = ask(folder, "--image", files[0], "--image", files[1], "--json").json()
    assert both["prompt_ids"][:26] == place + [START] + [PAD] * 16 + [END]
    named = ask(folder, "--image", files[0], "--image", files[1], "--json", prompt="a <|image_pad|> b <|image_pad|>").json()
    assert named["prompt_ids"].count(PAD) == 22 and named["prompt_ids"][0] != START


def test_the_answer_depends_on_the_picture(folder, files, tmp_path):
    other = tmp_path / "other.png"
    picture(84, 56, seed=9).save(other)
    seen = {tuple(ask(folder, "--image", f, "--json", "--method", "diffusion", "-o", "policy=static").json()["ids"])
            for f in (files[0], other)}
    again = ask(folder, "--image", files[0], "--json", "--method", "diffusion", "-o", "policy=static").json()["ids"]
    assert len(seen) == 2 and tuple(again) in seen


@pytest.mark.parametrize("options", [["policy=static"], ["policy=confident", "threshold=0.9", "block_length=0", "cache=prefix"],
                                     ["cache=dual", "block_length=4"], ["pin=-1:!"], ["guidance=0.5"]])
def test_methods_caches_pins_and_traces_go_on_working(folder, files, options, tmp_path):
    arguments = [a for option in options for a in ("-o", option)]
    trace = tmp_path / "trace.jsonl"
    done = ask(folder, "--image", files[0], "--method", "diffusion", "--trace", trace, "--json", *arguments).json()
    assert len(done["ids"]) == 12
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert sum(len(step["written"]) for step in steps) == 12
    if options == ["pin=-1:!"]:
        assert done["text"].endswith("!")
    if "cache=prefix" in options:
        # After the first forward the image and the prompt, but for its last token, are not computed again.
        prompt = len(done["prompt_ids"])
        assert steps[0]["rows"] == prompt + 12
        assert all(step["rows"] == 13 for step in steps[1:])


def test_a_file_of_prompts_with_and_without_images(folder, files, tmp_path):
    lines = jsonl(tmp_path / "lines.jsonl", [
        {"prompt": "one", "images": [str(files[0])], "n": 5, "id": 1}, {"prompt": "none", "n": 5, "id": 2},
        {"prompt": "two", "images": [str(files[1]), str(files[0])], "n": 5, "id": 3},
        {"prompt": "lost", "images": ["absent.png"], "id": 4}])
    done = tutti("run", "-m", folder, "--prompts", lines, "--ignore-eos", "-q")
    answers = done.lines()
    assert done.code == 1 and "absent.png" in answers[3]["error"] and answers[3]["id"] == 4
    assert [a["prompt_ids"].count(PAD) for a in answers[:3]] == [6, 0, 22]
    alone = tutti("run", "-m", folder, "-p", "one", "--image", files[0], "-n", "5", "--ignore-eos", "--json").json()
    assert answers[0]["ids"] == alone["ids"]


def test_what_cannot_be_read_is_refused(folder, files, tmp_path):
    small, long, cut, text = (tmp_path / name for name in ("small.png", "long.png", "cut.png", "text.png"))
    picture(27, 80).save(small)
    picture(30, 6100).save(long)
    whole = files[1].read_bytes()
    cut.write_bytes(whole[:len(whole) // 2])
    text.write_text("no picture")
    for file, said, code in ((small, "too small", 2), (long, "too elongated", 2), (cut, "no sound PNG", 1),
                             (text, "neither PNG nor JPEG", 1), (tmp_path / "absent.png", "absent.png", 1)):
        done = ask(folder, "--image", file)
        assert done.code == code and said in done.err and str(file) in done.err, done.err
        assert "\n" not in done.err.strip()
    for prompt, said in (("<|image_pad|><|image_pad|>", "places for 2 images, but there are 1"),
                         ("<|image_pad|><|video_pad|>", "video")):
        done = ask(folder, "--image", files[0], prompt=prompt)
        assert done.code in (1, 2) and said in done.err, done.err


def test_a_model_without_a_tower_says_so(files):
    done = tutti("run", "-m", program.ROOT / "weights" / "sudoku", "-p", "x", "--image", files[0])
    assert done.code == 2 and "reads no images" in done.err, done.err


def test_only_images_open_libtorch(folder, files):
    for images, opened in (([], False), (["--image", files[0]], True)):
        process = subprocess.Popen([TUTTI, "run", "-m", folder, "-p", "x", "-n", "400", "--ignore-eos", "--method",
                                    "diffusion", "-o", "policy=static", *map(str, images)],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert process.stdout.read(1)
            if opened:
                assert "libtorch_cpu" in maps_of(process.pid)
            else:
                expect_no_torch(process)
        finally:
            process.kill()
            process.wait()


def test_image_says_what_a_model_sees(folder, files, tmp_path):
    from PIL import Image
    grid = tmp_path / "grid.png"
    line = json.loads(tutti("image", "-m", folder, files[0], "--grid", grid).out)
    assert line["resized"] == [84, 56] and line["grid"] == [1, 4, 6] and line["tokens"] == 6 and line["windows"] == [6]
    assert Image.open(grid).size == (84, 56)
    assert Image.open(grid).convert("RGB").getpixel((28, 30)) == (255, 255, 255)
