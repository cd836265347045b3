#!/usr/bin/env bash
# Our speculative methods beside llama.cpp's programs: llama-lookup, llama-lookahead, llama-speculative-simple. The peer
# is fetched and built when absent; options are speculative.py's (--help); a table goes to standard output.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
JOBS="${JOBS:-$(nproc)}" "$here/build.sh" >&2
peer="$root/.cache/peers/llama.cpp"
bin="$peer/build/bin"
compiler=clang++-19
command -v $compiler >/dev/null || compiler=clang++
flags=(-O3 -march=native -DNDEBUG -std=c++17 -I"$peer/include" -I"$peer/ggml/include" -I"$peer/common" -I"$peer/vendor"
  -L"$bin" -Wl,-rpath,"$bin")
for source in lookup/lookup lookahead/lookahead speculative-simple/speculative-simple; do
  program="$bin/llama-$(basename "$source")"
  [ -x "$program" ] && continue
  echo "peer: building $(basename "$program")" >&2
  $compiler "${flags[@]}" "$peer/examples/$source.cpp" -o "$program" -lllama-common -lllama -lggml -lggml-base -pthread >&2
done
exec "$root/.venv/bin/python" "$here/speculative.py" "$@"
