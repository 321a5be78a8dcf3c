#!/usr/bin/env bash
# Fetch a version of uPlot, by npm from whatever registry it is set up with, and put it where the console has it:
#
#   scripts/vendor_uplot.sh 1.6.32
#
# npm checks the package against the registry's checksum. The files are kept as they are.
set -euo pipefail

version=$1
name=uplot
folder=$(cd "$(dirname "$0")/.." && pwd)/server/process/console/static/vendor/uplot
scratch=$(mktemp -d "${TMPDIR:-/tmp}/uplot.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

cd "$scratch"
package=$(npm pack --silent "$name@$version")
tar -xzf "$package"
cp package/dist/uPlot.iife.min.js package/dist/uPlot.min.css package/LICENSE "$folder"
sum() { sha256sum "$folder/$1" | cut -d " " -f 1; }
cat >"$folder/manifest.json" <<JSON
{
  "name": "$name",
  "version": "$version",
  "licence": "MIT",
  "sha256": {
    "uPlot.iife.min.js": "$(sum uPlot.iife.min.js)",
    "uPlot.min.css": "$(sum uPlot.min.css)"
  }
}
JSON
