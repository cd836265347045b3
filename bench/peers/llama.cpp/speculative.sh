#!/usr/bin/env bash
# Our speculative methods beside llama.cpp's programs: llama-lookup, llama-lookahead, llama-speculative-simple. The peer
# is fetched and built when absent; options are speculative.py's (--help); a table goes to standard output.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
source "$here/on_library.sh"
for program in lookup lookahead speculative-simple; do
  on_library "llama-$program" "$peer/examples/$program/$program.cpp"
done
exec "$root/.venv/bin/python" "$here/speculative.py" "$@"
