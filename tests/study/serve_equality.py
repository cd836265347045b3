"""The server under load on the real model: what 1, 4, 16 and 64 clients get, methods mixed, is what a lone client gets.

    tests/study/serve_equality.py [--requests 170] [--model smollm2] [--clients 1,4,16,64] [--seed 1]

Requests of every kind (tests/end_to_end/mixed_requests.py): samples, beams, streams, grammars, stop strings, several
prompts, vectors, and speculation by lookup, early exit, prompt tokens and Hidden Transfer. Texts, log-probabilities bit
for bit, reasons and counts are compared; each level asks in an order of its own."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("end_to_end", "conformance"):
    sys.path.insert(0, str(ROOT / "tests" / folder))

from mixed_requests import Kinds, check_equality  # noqa: E402
from server import Server  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=170)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", default="0")
    o = parser.parse_args()
    trained = o.model == "smollm2"
    files = ["-o", f"prompt_tokens={ROOT}/weights/smollm2-ppd", "-o", f"maps={ROOT}/weights/smollm2-transfer"] if trained else []
    methods = ["lookup", "early-exit"] + (["ppd", "hidden-transfer"] if trained else [])
    server = Server("-q", "-t", o.threads, "-N", "64", *files, model=o.model)
    try:
        check_equality(server.port, Kinds(o.model, methods).make(o.requests, o.seed), map(int, o.clients.split(",")), o.seed,
                       lambda text: print(text, flush=True))
    except AssertionError as error:
        sys.exit(f"serve_equality: {error}")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
