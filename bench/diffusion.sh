#!/usr/bin/env bash
# Tables of docs/diffusion.md and of its systems' pages, on standard output. Wants a machine that does nothing else.
#   bench/diffusion.sh [WEIGHTS TASK LENGTH]      PROBLEMS=200
set -euo pipefail
cd "$(dirname "$0")/.."
tutti=${TUTTI:-build/release/tutti}
problems=${PROBLEMS:-200}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

run() {
  printf '\n$ tutti'
  printf ' %s' "$@"
  printf '\n\n'
  "$tutti" "$@"
}

study() {
  local weights=$1 task=$2 length=$3  # of prompt and answer together, as it was trained
  local eval=(eval tasks -m "$weights" --task "$task" -c "$length" -n "$length" -q)
  # Every policy with every cache, alone and sixteen at a time.
  run "${eval[@]}" --problems "$problems" --matrix --batch 1
  run "${eval[@]}" --problems "$problems" --batch 1,16 --try "diffusion policy=static" --try "diffusion policy=threshold"
  # FreeDave is its policy's text, on a thousand problems.
  run "${eval[@]}" --problems 1000 --batch 16 --verify-lossless --try "freedave draft_steps=2" \
    --try "freedave draft_steps=4" --try "freedave draft_steps=8" --try "freedave policy=threshold draft_steps=4"
  # Credits against thresholds, finely.
  local trials=()
  for t in 0.999 0.99 0.98 0.95 0.9 0.85 0.8 0.7 0.6 0.5; do
    trials+=(--try "diffusion policy=threshold threshold=$t" --try "diffusion policy=credit threshold=$t"
      --try "diffusion policy=credit threshold=$t credit_free=1")
  done
  run "${eval[@]}" --problems 500 --batch 16 "${trials[@]}"
}

if [ $# -eq 3 ]; then
  study "$@"
else
  study weights/sudoku sudoku 36
  study weights/addition addition 48
  study weights/sudoku-blocks sudoku 36
  study weights/sudoku-shifted sudoku 36
fi
