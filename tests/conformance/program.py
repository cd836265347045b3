"""The program under test, called as a user calls it."""

import os
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
EXACT = ["--arithmetic", "exact-f32", "--kv", "f32"]


def path() -> Path:
    program = Path(os.environ.get("TUTTI", ROOT / "build" / "release" / "tutti"))
    assert program.exists(), f"{program} is not built; run `make build` or set TUTTI"
    return program


def run(*arguments, timeout=600) -> str:
    """Standard output of the program; an AssertionError with its own message when it fails."""
    command = [str(path()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    shown = " ".join(command)
    if len(shown) > 400:
        shown = shown[:400] + " …"
    assert done.returncode == 0, f"exit {done.returncode} of: {shown}\n{done.stderr[-2000:]}"
    return done.stdout


def refused(*arguments, code=1, timeout=600) -> str:
    """What the program says on stderr when it refuses."""
    done = subprocess.run([str(path()), *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == code, f"exit {done.returncode}, not {code}: {done.stderr[-2000:]}"
    return done.stderr


def logits(model, ids, vocab, out: Path, *, options=EXACT) -> np.ndarray:
    """Logits [len(ids), vocab] of one sequence, as a read-only map of `out`."""
    run("eval", "logits", "-m", model, "--ids", ",".join(map(str, ids)), *options, "--out", out)
    return read_logits(out, len(ids), vocab)


def read_logits(file: Path, rows: int, vocab: int) -> np.ndarray:
    expected = rows * vocab * 4
    size = file.stat().st_size
    assert size == expected, f"{file.name} has {size} bytes; [{rows}, {vocab}] float32 are {expected}"
    return np.memmap(file, dtype="<f4", mode="r", shape=(rows, vocab))
