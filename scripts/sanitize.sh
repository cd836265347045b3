#!/usr/bin/env bash
# ASan+UBSan over all rooms and each fuzz target for FUZZ_SECONDS (60); TSan over the rooms without libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."
export seconds=${FUZZ_SECONDS:-60} jobs=$(nproc)
for preset in asan tsan; do
  cmake --preset "$preset" >/dev/null
  cmake --build "build/$preset" -j "$jobs"
  ctest --test-dir "build/$preset" --output-on-failure -L unit -j "$jobs"
done
fuzz() {
  name=$(basename "$1")
  work=$(mktemp -d)
  log=$work.log
  "$1" -max_total_time="$seconds" -rss_limit_mb=4096 -print_final_stats=0 "$work" "tests/fuzz/$name" 2>"$log" || {
    cat "$log" >&2
    echo "== $name: a finding" >&2
    exit 255
  }
  echo "== $name, $seconds s: $(grep -c . "$log") lines, $(tail -n 1 "$log")"
  rm -r "$work" "$log"
}
export -f fuzz
printf '%s\n' build/asan/*_fuzz | xargs -P "$jobs" -I{} bash -c 'fuzz {}'
