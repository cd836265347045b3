#!/usr/bin/env bash
# `tutti serve` beside llama-server on the same GGUF, threads and load, in turns; options are serve.py's (--help).
# The peer is fetched and built when absent; results go to bench/results/.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
JOBS="${JOBS:-$(nproc)}" "$here/build.sh" >&2
exec env PYTHONDONTWRITEBYTECODE=1 "$root/.venv/bin/python" "$here/serve.py" "$@"
