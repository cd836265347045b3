"""A server under many short requests of every kind, some of them given up, and whether its memory stays flat.

    tests/study/serve_soak.py [--requests 10000] [--cancelled 0.3] [--clients 24] [--seed 1]

The model is small and random, so that ten thousand take minutes. Every tenth of the requests (the first is warm-up) ends
idle: no page, thread or descriptor is left, counters agree with those of the clients (tests/end_to_end/soak.py), and the
resident memory of the process that no file stands behind (RssAnon of /proc) is noted. Flat means: a line fitted through the
notes after the warm-up rises by at most 2 MiB from the first to the last."""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
for folder in ("end_to_end", "conformance"):
    sys.path.insert(0, str(ROOT / "tests" / folder))

import random_model  # noqa: E402
from mixed_requests import Kinds  # noqa: E402
from server import Server  # noqa: E402
from soak import Process, Soak, held_when_idle  # noqa: E402

MOST = 2.0  # MiB


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--cancelled", type=float, default=0.3)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = random_model.write(Path(folder, "random.gguf"))
        prompts = random_model.write_prompt_tokens(Path(folder, "prompts"))
        server = Server("-q", "-t", "1", "-N", "8", "--kv-pages", "400", "-o", f"prompt_tokens={prompts}", "-o", "rows=8",
                        model=model)
        try:
            process = Process(server.process.pid)
            threads, descriptors = held_when_idle(server)
            soak = Soak(server, Kinds("random.gguf", ["lookup", "early-exit", "ppd"]), o.cancelled, o.clients, o.seed)
            before, notes = server.metrics(), []
            for part in range(10):
                soak.run(o.requests // 10)
                soak.settle(threads, descriptors)
                counts = soak.reconcile(before, server.metrics())
                notes.append(process.megabytes())
                print(", ".join(f"{count} {name}" for name, count in counts.items()) + f"; {notes[-1]:.1f} MiB, "
                      f"{descriptors} descriptors, {threads} threads", flush=True)
            slope = numpy.polyfit(range(len(notes) - 1), notes[1:], 1)[0] * (len(notes) - 2)
            print(f"memory rises by {slope:.2f} MiB over {o.requests * 8 // 10} requests (at most {MOST} is flat)")
            if slope > MOST:
                sys.exit("serve_soak: memory grows")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
