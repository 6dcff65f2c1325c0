#!/usr/bin/env bash
# Makes .venv what requirements.lock and the pyproject files say; returns at once when it is that already.
set -euo pipefail
cd "$(dirname "$0")/.."

min="3.11"
stamp=".venv/.bootstrapped"

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
fits() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

fingerprint() {
  cat requirements.lock pyproject.toml libs/*/pyproject.toml services/*/pyproject.toml tools/*/pyproject.toml "$0" | cksum
}

# By its own profile, as distributions' and python.org's are and pyenv's usually not: that takes up to twice the time.
optimized() {
  "$1" -c 'import sys, sysconfig
sys.exit(sys.base_prefix != "/usr" and "--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""))'
}

find_python() {
  local name found=""
  for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if command -v "$name" >/dev/null && fits "$name"; then
      if optimized "$name"; then
        command -v "$name"
        return
      fi
      found="${found:-$(command -v "$name")}"
    fi
  done
  [ -n "$found" ] && printf '%s\n' "$found"
}

apt_install() {
  say "installing with apt-get: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}

# What pip was told about this machine (environment or pip.conf), for uv, which reads other names. Nothing is set that
# uv was told itself.
lend() {
  local variable="$1" option="$2" from_environment="PIP_$3" value
  value="${!from_environment:-$(.venv/bin/python -m pip config list | sed -n "s/^[^.:]*\.$option='\(.*\)'\$/\1/p" | tail -n 1)}"
  if [ -n "$value" ] && [ -z "${!variable:-}" ]; then export "$variable=$value"; fi
}

if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

if ! .venv/bin/python -c '' 2>/dev/null; then
  if ! python="$(find_python)" && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt_install python3 python3-venv || true
    python="$(find_python)" || { apt_install python3.11 python3.11-venv || true; }
  fi
  python="$(find_python)" ||
    fail "Python $min or newer with its venv module is needed, to run everything here: install it (Debian, Ubuntu:" \
      "python3 python3-venv; Fedora: python3; macOS: brew install python), then try again"
  say "making .venv with $python"
  "$python" -m venv --clear .venv
fi

say "installing the locked dependencies"
lend UV_DEFAULT_INDEX index-url INDEX_URL
lend UV_INDEX extra-index-url EXTRA_INDEX_URL
lend UV_FIND_LINKS find-links FIND_LINKS
lend UV_NO_INDEX no-index NO_INDEX
lend UV_INSECURE_HOST trusted-host TRUSTED_HOST
lend SSL_CERT_FILE cert CERT
# uv itself: pip checks it against the lock's hashes.
awk '/^[^ ]/ { inside = /^uv==/ } inside' requirements.lock >.venv/uv.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
uv() { .venv/bin/uv --quiet "$@" --python .venv/bin/python; }
uv pip install --require-hashes --compile-bytecode -r requirements.lock
editable=()
for package in libs/*/ services/*/ tools/*/; do
  [ ! -e "$package/pyproject.toml" ] || editable+=(-e "$package")
done
uv pip install --no-deps --no-sources --no-build-isolation "${editable[@]}"
fingerprint >"$stamp"
