#!/usr/bin/env bash
# Perplexity of one model in fp32 (the dequantised file), rounded to nearest and through GPTQ, groups of 32 and 128:
# `bench/gptq.sh [MODEL] [TEXT] [CALIBRATION]`. Neither text contains the other; the default ones are there on every
# Debian. A GPTQ run of SmolLM2-135M on 4,096 tokens took 4 minutes of processor time.
set -euo pipefail
cd "$(dirname "$0")/.."
TUTTI=${TUTTI:-build/release/tutti}
MODEL=${1:-smollm2}
TEXT=${2:-/usr/share/common-licenses/GPL-3}
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT
CALIBRATION=${3:-$OUT/topics.txt}
# The Python language's own help pages.
[ -n "${3:-}" ] || python3 -c "import pydoc_data.topics as t; print('\n'.join(t.topics.values()))" > "$CALIBRATION"

"$TUTTI" quantize -m "$MODEL" "$OUT/f32.gguf" F32 --allow-requantize -q > "$OUT/log"
ppl() {
  "$TUTTI" eval perplexity -m "$1" -f "$TEXT" --tokens 4096 --arithmetic exact-f32 -q --json |
    python3 -c "import json, sys; print('%.4f' % json.load(sys.stdin)['ppl'])"
}
printf '%-8s %-22s %s\n' group method perplexity
printf '%-8s %-22s %s\n' - fp32 "$(ppl "$OUT/f32.gguf")"
"$TUTTI" quantize -m "$OUT/f32.gguf" "$OUT/q.gguf" Q4_0 -q --force > "$OUT/log"
printf '%-8s %-22s %s\n' 32 "Q4_0 as llama.cpp's" "$(ppl "$OUT/q.gguf")"
for group in 32 128; do
  for method in rtn gptq "gptq --order activation"; do
    # shellcheck disable=SC2086
    "$TUTTI" quantize -m "$OUT/f32.gguf" "$OUT/q.gguf" Q4_0 --method $method --group "$group" \
      --calibration "$CALIBRATION" --calibration-tokens 4096 -q --force > "$OUT/log"
    printf '%-8s %-22s %s\n' "$group" "$method" "$(ppl "$OUT/q.gguf")"
  done
done
