#!/usr/bin/env bash
# Fetch what tests/languages needs of npm, from whatever registry it is set up with, and print the folder it is in.
# What is there already is not fetched again. npm checks each package against its hash in package-lock.json, which
# `npm install --package-lock-only --omit-lockfile-registry-resolved` writes, without addresses.
set -euo pipefail

languages=$(cd "$(dirname "$0")/../tests/languages" && pwd)
locked=$(sha256sum "$languages/package-lock.json" | cut -c 1-12)
folder=${TYPESCRIPT_PACKAGES:-${XDG_CACHE_HOME:-$HOME/.cache}/tallystick/typescript-$locked}

if [ ! -e "$folder/complete" ]; then
  mkdir -p "$folder"
  cp "$languages/package.json" "$languages/package-lock.json" "$folder"
  npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --no-update-notifier >&2
  touch "$folder/complete"
fi
echo "$folder"
