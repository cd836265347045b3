#!/usr/bin/env bash
# The tables of docs/systems/38-flover.md, on standard output. Wants a machine that does nothing else.
#   bench/traffic.sh [MODEL]      OUTPUT=64 (tokens of a request)  REPEATS=3
set -euo pipefail
cd "$(dirname "$0")/.."
tutti=${TUTTI:-build/release/tutti}
model=${1:-smollm2}
output=${OUTPUT:-64}
repeats=${REPEATS:-3}

run() {
  printf '\n$ tutti traffic'
  printf ' %s' "$@"
  printf '\n\n'
  "$tutti" traffic -m "$model" -q --requests 32 --prompt-tokens 16 "$@"
}

for arithmetic in exact-f32 exact-q8; do
  run --arithmetic "$arithmetic" --interval 0 --output-tokens "$output" --repeats "$repeats"
  run --arithmetic "$arithmetic" --scheduler fused --interval 0 --output-tokens "16-$((4 * output))" \
    --shuffle on,off,auto --repeats "$repeats"
  for interval in 0.05x 0.1x 0.25x 0.5x 1x; do
    run --arithmetic "$arithmetic" --interval "$interval" --output-tokens "$output"
    run --arithmetic "$arithmetic" --poisson "$interval" --output-tokens "$output"
  done
done
