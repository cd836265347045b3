"""tutti traffic: the table of schedulers, its files, the live view, traces from files."""

import csv
import xml.etree.ElementTree as xml

from user import Terminal, jsonl, tutti

SMALL = ["traffic", "-m", "smollm2", "-q", "--prompt-rows", 24, "--concurrency", 4]
LABELS = ["fused, paged", "fused, contiguous, shuffle on", "fused, contiguous, shuffle off", "dynamic-batch", "instances"]


def test_five_schedulers_give_the_same_tokens(tmp_path):
    requests, ticks, svg = tmp_path / "requests.csv", tmp_path / "ticks.csv", tmp_path / "plot"
    done = tutti(*SMALL, "--requests", 7, "--interval", "0.05x", "--prompt-tokens", "3-9", "--output-tokens", "2-12",
                 "--sampled", 0.5, "--json", "--csv", requests, "--ticks-csv", ticks, "--svg", svg)
    document = done.json()
    assert done.err == "" and document["requests"] == 7 and document["lone_seconds"] > 0
    rows = document["rows"]
    assert [row["label"] for row in rows] == LABELS
    for row in rows:
        assert (row["finished"], row["cancelled"], row["refused"]) == (7, 0, 0)
        assert [r["ids"] for r in row["requests"]] == [r["ids"] for r in rows[0]["requests"]], row["label"]
        assert sum(len(r["ids"]) for r in row["requests"]) == row["tokens"]
        assert len(row["in_flight"]) == row["iterations"] and 1 <= max(row["in_flight"]) <= 4
        assert row["forecast_seconds"] > 0 and row["inflation"] > 0 and row["tok_s"] > 0
        assert 0 < row["latency"]["p50"] <= row["latency"]["p99"] <= row["seconds"]
    paged, on, off, batch, instances = rows
    for row in (paged, on, instances):
        assert row["dead_rows"] == 0, row["label"]
    assert off["moved_bytes"] == 0 == paged["moved_bytes"]
    prompt_rows = sum(int(line["prompt_tokens"]) for line in csv.DictReader(requests.open())
                      if line["scheduler"] == "instances")
    for row in rows:  # every row of the model is accounted for: prompts, tokens but the last of each, dead lanes
        assert row["rows"] == prompt_rows + row["tokens"] - 7 + row["dead_rows"], row["label"]
    assert instances["iterations"] >= instances["tokens"]

    lines = list(csv.DictReader(requests.open()))
    assert len(lines) == 35 and {line["scheduler"] for line in lines} == set(LABELS)
    for line in lines:
        assert line["outcome"] == "finished"
        times = [float(line[k]) for k in ("arrival", "admitted", "first_token", "end")]
        assert times == sorted(times)
    lines = list(csv.DictReader(ticks.open()))
    assert len(lines) == sum(row["iterations"] for row in rows)
    for row in rows:
        mine = [line for line in lines if line["scheduler"] == row["label"]]
        for column, total in (("tokens", row["tokens"]), ("rows", row["rows"]), ("dead_rows", row["dead_rows"]),
                              ("moved_bytes", row["moved_bytes"])):
            assert sum(int(line[column]) for line in mine) == total, column
        ended = sorted(int(i) for line in mine for i in line["ended"].split())
        added = sorted(int(i) for line in mine for i in line["added"].split())
        assert ended == added == list(range(7))
    for kind in ("progress", "finished", "in-flight", "latency", "throughput"):
        root = xml.parse(f"{svg}.{kind}.svg").getroot()
        words = [e.text for e in root.iter()]
        assert root.tag.endswith("svg") and all(label in words for label in LABELS)


def test_a_trace_from_a_file_and_its_texts(tmp_path):
    prompt = "The capital of France is"
    trace = jsonl(tmp_path / "trace.jsonl", [
        {"arrival": 0.05, "prompt": prompt, "output_tokens": 6, "ignore_eos": True},
        {"arrival": 0, "prompt_tokens": 5, "output_tokens": 4},
        {"arrival": 0, "ids": [1, 2, 3], "output_tokens": 5, "temp": 0.9, "seed": 7, "top_k": 20, "ignore_eos": True},
        {"arrival": 0, "prompt_tokens": 5, "output_tokens": 9000},
        {"arrival": 0, "prompt_tokens": 5, "output_tokens": 4000, "cancel_after": 0.3, "ignore_eos": True},
    ])
    document = tutti(*SMALL, "--trace", trace, "--scheduler", "fused", "--layout", "paged", "--json").json()
    (row,) = document["rows"]
    # By arrival; those that came together keep their order.
    _, sampled, long, gone, text = row["requests"]
    alone = tutti("run", "-m", "smollm2", "--raw", "-p", prompt, "-n", 6, "--ignore-eos", "--json").json()
    assert text["ids"] == alone["ids"]
    assert len(sampled["ids"]) == 5
    assert long["outcome"] == "refused" and "8192" in long["reason"] and long["ids"] == []
    assert gone["outcome"] == "cancelled" and 0 < len(gone["ids"]) < 4000
    assert (row["finished"], row["cancelled"], row["refused"]) == (3, 1, 1)
    again = tutti(*SMALL, "--trace", trace, "--scheduler", "instances", "--json").json()["rows"][0]
    assert again["requests"][1]["ids"] == sampled["ids"] and again["requests"][4]["ids"] == text["ids"]


def test_the_table():
    done = tutti(*SMALL, "--requests", 3, "--poisson", 0.01, "--output-tokens", 3)
    assert done.code == 0 and "a lone request" in done.out
    for label in LABELS:
        assert label in done.out


def test_errors_say_what_to_do(tmp_path):
    def refused(*arguments):
        done = tutti(*SMALL, *arguments)
        assert done.code in (1, 2) and done.out == "", arguments
        return done.err

    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"arrival": 0, "prompt_tokens": 1, "output_tokens": 1}\n{"arrival": 0}\n')
    assert "bad.jsonl, line 2" in refused("--trace", bad)
    assert "no-such" in refused("--trace", tmp_path / "no-such.jsonl")
    assert "0.5x" in refused("--interval", "fast")
    assert "range" in refused("--prompt-tokens", "9-3")
    assert "--poisson" in refused("--interval", 1, "--poisson", 1)
    assert "fair" in refused("--scheduler", "fair")
    assert "--kv-pages" in refused("--kv-pages", 8, "--prompt-tokens", 90, "--output-tokens", 2, "--layout",
                                   "contiguous", "--scheduler", "fused")


def test_the_live_view():
    terminal = Terminal("traffic", "-m", "smollm2", "--requests", 4, "--output-tokens", 60, "--concurrency", 4,
                        "--prompt-rows", 24, "--scheduler", "fused", "--layout", "paged")
    try:
        assert terminal.wait(90) == 0
        screen = terminal.raw.decode()
        assert "in flight" in screen and "====" in screen and "added" in screen
        assert "fused, paged" in screen
    finally:
        terminal.close()
