"""For the studies of this folder: the program under test, and its output. TUTTI names another build than build/release's."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TUTTI = os.environ.get("TUTTI", str(ROOT / "build/release/tutti"))


def tutti(*arguments) -> str:
    """What `tutti ARGUMENTS` prints, run in the project's folder; ends this program when it fails."""
    done = subprocess.run([TUTTI, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{os.path.basename(sys.argv[0])}: tutti {' '.join(map(str, arguments))} failed")
    return done.stdout
