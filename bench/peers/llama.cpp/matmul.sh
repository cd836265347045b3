#!/usr/bin/env bash
# Products by rows beside ggml's; options are matmul.py's (--help). The peer is fetched and built when absent; results go
# to bench/results/.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
source "$here/on_library.sh"
on_library matmul "$here/matmul.cpp"
exec "$root/.venv/bin/python" "$here/matmul.py" "$@"
