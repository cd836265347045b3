#!/usr/bin/env bash
# Our program and llama.cpp interleaved on the same GGUF and threads; options are compare.py's (--help).
# The peer is fetched and built when absent; results go to bench/results/.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
JOBS="${JOBS:-$(nproc)}" "$here/build.sh" >&2
exec "$root/.venv/bin/python" "$here/compare.py" "$@"
