#!/usr/bin/env bash
# Holds the gateway's document to style.yaml with Spectral, which npm installs once. Where it cannot, one line says so.
set -euo pipefail
cd "$(dirname "$0")"

version="6.16.3"
home="${XDG_CACHE_HOME:-$HOME/.cache}/shop-platform/spectral-$version"
spectral="$home/node_modules/.bin/spectral"

skip() { printf 'the style of the API is not checked: %s\n' "$*"; exit 0; }

if [ ! -x "$spectral" ]; then
  command -v npm >/dev/null || skip "that takes Node.js and npm"
  echo "installing Spectral $version"
  npm install --prefix "$home" --loglevel error --no-audit --no-fund --ignore-scripts "@stoplight/spectral-cli@$version" ||
    skip "npm cannot install Spectral"
fi
"$spectral" lint --quiet --ruleset style.yaml --fail-severity warn ../../services/gateway/src/shop_gateway/openapi.json
