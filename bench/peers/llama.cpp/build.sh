#!/usr/bin/env bash
# Builds the peer as its users get the most of it on this CPU: clang, Release, -march=native, no BLAS.
# g++ 12 is not used: its AMX code loses the tile configuration and dies of an illegal instruction.
# OpenMP as llama.cpp itself decides: used when clang has libomp, else its own thread pool.
# Idempotent.   JOBS=n  parallel compile jobs (default 1)   PEER_OPENMP=OFF  its own pool in any case
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
source="$(realpath -m "$root/.cache/peers/llama.cpp")"  # its build holds paths
build="$source/build"
jobs="${JOBS:-1}"
targets=(llama-bench llama-batched-bench llama-perplexity llama-completion llama-quantize llama-tokenize llama-server)

"$here/fetch.sh"
[ -f "$build/.built" ] && [ "$(cat "$build/.built")" = "${targets[*]}" ] && exit 0

compiler=clang-19
command -v $compiler >/dev/null || compiler=clang
if ! command -v $compiler >/dev/null; then
  echo "peer: clang is not installed; apt-get install clang-19" >&2
  exit 1
fi

if [ ! -f "$build/build.ninja" ] || [ -f "$build/.built" ]; then  # a build of other targets is configured anew
  cmake -S "$source" -B "$build" -G Ninja -Wno-dev \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=$compiler -DCMAKE_CXX_COMPILER=${compiler/clang/clang++} \
    -DGGML_NATIVE=ON -DGGML_OPENMP="${PEER_OPENMP:-ON}" -DGGML_BLAS=OFF -DGGML_CCACHE=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_ALL_WARNINGS=OFF \
    >"$source/configure.log" 2>&1 || {
    tail -n 30 "$source/configure.log" >&2
    echo "peer: CMake failed" >&2
    exit 1
  }
fi
echo "peer: building llama.cpp (about ten minutes on one core, once)"
nice -n 19 ninja -C "$build" -j "$jobs" "${targets[@]}" >"$source/build.log" 2>&1 || {
  tail -n 30 "$source/build.log" >&2
  echo "peer: the build failed" >&2
  exit 1
}
echo "${targets[*]}" >"$build/.built"
echo "peer: llama.cpp is built in .cache/peers/llama.cpp/build/bin"
