#!/usr/bin/env bash
# subset.sh NAMES: the entries of requirements.lock, hashes and all, for the packages named at the start of NAMES' lines.
set -euo pipefail
awk 'NR == FNR { split($1, part, "=="); keep[part[1]]; next }
     /^[^ ]/ { split($1, part, "=="); inside = part[1] in keep }
     inside' "$1" "$(dirname "$0")/requirements.lock"
