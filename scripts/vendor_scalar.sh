#!/usr/bin/env bash
# Fetch a version of Scalar, by npm from whatever registry it is set up with, and put its bundle where the service has it:
#
#   scripts/vendor_scalar.sh 1.76.0
#
# npm checks the package against the registry's checksum. The bundle is kept as it is, compressed.
# VERSION of server/http/handlers/reference.py says which one is served.
set -euo pipefail

version=$1
name=@scalar/api-reference
file=dist/browser/standalone.js
folder=$(cd "$(dirname "$0")/.." && pwd)/server/http/vendor/scalar
scratch=$(mktemp -d "${TMPDIR:-/tmp}/scalar.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

cd "$scratch"
package=$(npm pack --silent "$name@$version")
tar -xzf "$package" "package/$file"
gzip --best --no-name <"package/$file" >"$folder/scalar.js.gz"
cat >"$folder/manifest.json" <<JSON
{
  "name": "$name",
  "version": "$version",
  "licence": "MIT",
  "file": "$file",
  "sha256": "$(sha256sum "package/$file" | cut -d " " -f 1)"
}
JSON
