#!/usr/bin/env bash
# SmolLM2-135M as a masked model: data, training by recipes/smollm2-diffusion.json, and the tables of
# bench/results/*-smollm2-diffusion-*.md: held-out loss by mask ratio before and after, beside the same weights read from
# left to right. Hours. Run from the project's folder.
#   OUT=runs TEXTS=24 THREADS=2 STEPS= (the recipe's) bench/smollm2-diffusion.sh
set -euo pipefail
TUTTI=${TUTTI:-build/release/tutti} OUT=${OUT:-runs} TEXTS=${TEXTS:-24} THREADS=${THREADS:-$(nproc)}
RECIPE=recipes/smollm2-diffusion.json
DATA=$OUT/smollm2-data RUN=$OUT/smollm2-diffusion START=$OUT/smollm2-diffusion-start

[ -e "$DATA/train.jsonl" ] || python3 recipes/smollm2_diffusion_data.py --tutti "$TUTTI" --out "$DATA" --threads "$THREADS"

# The weights before: one step that moves nothing.
if [ ! -e "$START/model" ]; then
  sed -e 's/"learning_rate": [0-9.e-]*/"learning_rate": 0/' -e "s|\"jsonl\": \"[^\"]*\"|\"jsonl\": \"$(realpath "$DATA")/train.jsonl\"|" \
    "$RECIPE" > "$OUT/start.json"
  "$TUTTI" train "$OUT/start.json" --out "$START" --until 1 -t "$THREADS"
fi
if [ -e "$RUN/state.safetensors" ]; then resume=--resume; fi
"$TUTTI" train "$RECIPE" --out "$RUN" ${resume:-} ${STEPS:+--until "$STEPS"} -t "$THREADS"

"$TUTTI" quantize -m smollm2 "$OUT/causal.gguf" Q8_0 --allow-requantize -q > /dev/null
"$TUTTI" quantize -m "$START/model" "$OUT/before.gguf" Q8_0 -q > /dev/null
"$TUTTI" quantize -m "$RUN/model" "$OUT/after.gguf" Q8_0 -q > /dev/null
for kind in texts answers; do
  lines=$(wc -l < "$DATA/$kind.jsonl")
  awk -v n="$TEXTS" -v all="$lines" 'int(NR * n / all) > int((NR - 1) * n / all)' "$DATA/$kind.jsonl" > "$OUT/held-$kind.jsonl"
  for model in causal before after; do
    echo "== $kind, $model"
    "$TUTTI" eval likelihood -m "$OUT/$model.gguf" -f "$OUT/held-$kind.jsonl" --samples 32 --ratio-masks 4 -t "$THREADS" -q
  done
done
