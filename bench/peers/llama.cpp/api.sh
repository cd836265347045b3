#!/usr/bin/env bash
# The same requests to `tutti serve` and to llama-server, and a table of what differs: docs/serving-differences.md.
# The peer is fetched and built when absent; options are api.py's (--help).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
JOBS="${JOBS:-$(nproc)}" "$here/build.sh" >&2
exec env PYTHONDONTWRITEBYTECODE=1 "$root/.venv/bin/python" "$here/api.py" "$@"
