#!/usr/bin/env bash
# Masked models beside llama.cpp: its diffusion program, and the reference sampler on its library. The peer is fetched
# and built when absent; options are diffusion.py's (--help); results go to bench/results/.
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
if [ "$here/static_sampler.cpp" -nt "$bin/static_sampler" ]; then
  $compiler "${flags[@]}" "$here/static_sampler.cpp" -o "$bin/static_sampler" -lllama -lggml -lggml-base >&2
fi
if [ ! -x "$bin/llama-diffusion-cli" ]; then
  echo "peer: building llama-diffusion-cli" >&2
  $compiler "${flags[@]}" "$peer/examples/diffusion/diffusion-cli.cpp" "$peer/examples/diffusion/diffusion.cpp" \
    -o "$bin/llama-diffusion-cli" -lllama-common -lllama -lggml -lggml-base -pthread >&2
fi

exec "$root/.venv/bin/python" "$here/diffusion.py" "$@"
