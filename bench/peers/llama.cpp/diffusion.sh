#!/usr/bin/env bash
# Masked models beside llama.cpp: its diffusion program, and the reference sampler on its library. The peer is fetched
# and built when absent; options are diffusion.py's (--help); results go to bench/results/.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
source "$here/on_library.sh"
on_library static_sampler "$here/static_sampler.cpp"
on_library llama-diffusion-cli "$peer/examples/diffusion/diffusion-cli.cpp" "$peer/examples/diffusion/diffusion.cpp"
exec "$root/.venv/bin/python" "$here/diffusion.py" "$@"
