#!/usr/bin/env bash
# Packs what the CUDA kernels need to be built, checked and timed on a machine that has a GPU, the CUDA toolkit and torch,
# but no network and none of the program's packages:
#   scripts/bundle_cuda.sh FILE.tar.gz
#   scripts/bundle_cuda.sh --check      packs, unpacks in an empty folder and builds there, for one architecture
# There: tar xf tutti-cuda.tar.gz; cd tutti-cuda; python3 bench/cuda/marlin.py --out results (builds by nvcc alone), or
# cmake --preset cuda; cmake --build --preset cuda; python3 ... --library build/cuda/libtutti_marlin.so.
set -euo pipefail
cd "$(dirname "$0")/.."

# The kernels have no dependency outside these: no third party's header.
PARTS=(LICENSE CMakeLists.txt CMakePresets.json cmake docs/systems/15-marlin.md src/tensor/cuda src/tensor/marlin_layout.h
  bench/cuda tests/conformance/quantised_layers.py)

pack() {
  local file=$1
  mkdir -p "$(dirname "$file")"
  tar --create --gzip --file "$file" --exclude=__pycache__ --transform='s,^,tutti-cuda/,' "${PARTS[@]}"
  echo "$file: $(du -b "$file" | cut -f1) bytes, $(tar tf "$file" | grep -vc '/$') files"
}

check() {
  local folder
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT
  pack "$folder/tutti-cuda.tar.gz"
  tar --extract --file "$folder/tutti-cuda.tar.gz" --directory "$folder"
  cd "$folder/tutti-cuda"
  cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES=90
  cmake --build --preset cuda
  test -s build/cuda/libtutti_marlin.so
}

case "${1:-}" in
  --check) check ;;
  ?*.tar.gz) pack "$1" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
