"""`tutti bench forward`: what it reports, and what it refuses."""

from user import tutti


def test_every_number_of_rows_has_its_time(tmp_path):
    svg = tmp_path / "rows.svg"
    answer = tutti("bench", "forward", "--shape", "smollm2-135m", "--device", "cpu", "--rows", "1,3", "--depth", 40,
                   "--repeats", 2, "--threads", 2, "--json", "--svg", svg).json()
    # The published model's own number, embeddings counted once.
    assert answer["parameters"] == 134_515_008 and answer["weight_bytes"] == 2 * answer["parameters"]
    assert [row["rows"] for row in answer["rows"]] == [1, 3]
    for row in answer["rows"]:
        assert 0 < row["low"] <= row["ms"] <= row["high"]
        assert 0 < row["bandwidth_fraction"]
    assert answer["rows"][0]["against_first"] == 1 and answer["copy_bandwidth"] > 1e8
    assert svg.read_text().startswith("<svg")


def test_what_cannot_be_measured_is_refused():
    for options, words in ((["--rows", "0"], "is not between 1 and the context"),
                           (["--rows", "8", "--depth", "8190"], "is not between 1 and the context of 8192"),
                           (["--device", "cuda:99"], "device: is cuda:99, but"),
                           (["--device", "tpu"], "tpu is no device; give cpu"),
                           (["--shape", "gpt-5"], "gpt-5 not in")):
        done = tutti("bench", "forward", "--shape", "smollm2-135m", *options)
        assert done.code == 2 and words in done.err, done.err
