# Sourced by what compiles programs on the peer's libraries, which it fetches and builds when absent.
#   on_library PROGRAM SOURCE REST...   compiled again when SOURCE is newer; REST: more sources
root="$(cd "$here/../../.." && pwd)"
JOBS="${JOBS:-$(nproc)}" "$here/build.sh" >&2
peer="$root/.cache/peers/llama.cpp"
bin="$peer/build/bin"
compiler=clang++-19
command -v $compiler >/dev/null || compiler=clang++

on_library() {
  [ -x "$bin/$1" ] && [ ! "$2" -nt "$bin/$1" ] && return
  $compiler -O3 -march=native -DNDEBUG -std=c++17 -I"$peer/include" -I"$peer/ggml/include" -I"$peer/common" \
    -I"$peer/vendor" "${@:2}" -o "$bin/$1" -L"$bin" -Wl,-rpath,"$bin" \
    -lllama-common -lllama -lggml -lggml-cpu -lggml-base -pthread >&2
}
