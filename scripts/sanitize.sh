#!/usr/bin/env bash
# ASan+UBSan over all rooms and each fuzz target for FUZZ_SECONDS (60); TSan over the rooms without libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
for preset in asan tsan; do
  cmake --preset "$preset" >/dev/null
  cmake --build "build/$preset"
  ctest --test-dir "build/$preset" --output-on-failure -L unit
done
for target in build/asan/*_fuzz; do
  name=$(basename "$target")
  echo "== $name, $seconds s"
  work=$(mktemp -d)
  "$target" -max_total_time="$seconds" -rss_limit_mb=4096 -print_final_stats=0 "$work" "tests/fuzz/$name"
  rm -r "$work"
done
