#!/usr/bin/env bash
# Rewrite requirements/*.txt from pyproject.toml. Versions stay unless asked: scripts/lock.sh --upgrade
#
# dev.txt holds everything but what has a virtual environment of its own (the last ones below). The others are parts of it
# and are constrained by it, so that one virtual environment can take them in any order. --universal: one file for Linux and macOS, every
# Python from 3.11 on. No address is written: the files work against any index.
set -euo pipefail
cd "$(dirname "$0")/.."

UV=${UV:-uv}
command -v "$UV" >/dev/null || {
  echo "lock: needs uv on PATH (pip install uv), or UV=/path/to/uv" >&2
  exit 1
}

compile() {
  local target=$1
  shift
  echo "lock: requirements/$target.txt"
  "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
    "$@" --output-file "requirements/$target.txt" >/dev/null
}

within=(--constraint requirements/dev.txt)
compile dev pyproject.toml --all-extras "$@"
compile run pyproject.toml "${within[@]}"
compile embedded pyproject.toml --extra embedded "${within[@]}"
compile load pyproject.toml --extra embedded --extra load "${within[@]}"
compile cli pyproject.toml --extra cli "${within[@]}"
compile otel pyproject.toml --extra otel "${within[@]}"
compile sinks pyproject.toml --extra kafka --extra rabbitmq "${within[@]}"
compile build --group build "${within[@]}"
# Of virtual environments of their own, so nothing else constrains them.
compile locust --group locust "$@"
compile contract --group contract "$@"
compile docs --group docs "$@"
compile peer --group peer "$@"
compile plots --group plots --constraint requirements/peer.txt "$@"

if grep -n '://' requirements/*.txt; then
  echo "lock: an address came into a lock file" >&2
  exit 1
fi
