#!/usr/bin/env bash
# Gets the peer's source: the llama.cpp tree that the pinned llama-cpp-python sdist carries, unpacked into
# .cache/peers/llama.cpp. Idempotent. Only pip is asked, so a pip mirror or cache serves it offline.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
version=0.3.36
target="$root/.cache/peers/llama.cpp"
stamp="$target/.fetched"

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$version" ]; then
  exit 0
fi

python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
mkdir -p "$root/.cache/peers"
work="$(mktemp -d "$root/.cache/peers/fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

sdist="$root/.cache/peers/llama_cpp_python-$version.tar.gz"
if [ ! -f "$sdist" ]; then
  echo "peer: fetching llama-cpp-python==$version by pip"
  "$python" -m pip download --disable-pip-version-check --quiet --no-deps --no-binary :all: \
    --dest "$work" "llama-cpp-python==$version" >"$work/pip.log" 2>&1 || {
    tail -n 20 "$work/pip.log" >&2
    echo "peer: pip could not fetch llama-cpp-python==$version; check the network or pip's index" >&2
    exit 1
  }
  mv "$work/llama_cpp_python-$version.tar.gz" "$sdist"
fi

# Unpacked aside and renamed, so that a killed run leaves nothing that looks complete.
tar -xzf "$sdist" -C "$work" --strip-components=2 "llama_cpp_python-$version/vendor/llama.cpp"
echo "$version" >"$work/llama.cpp/.fetched"
rm -rf "$target"
mv "$work/llama.cpp" "$target"
rm -f "$sdist"
echo "peer: llama.cpp of llama-cpp-python $version is in .cache/peers/llama.cpp"
