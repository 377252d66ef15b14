#!/bin/bash
# packages.sh: installs, once, what parts/requirements.txt pins (LiteLLM, the MCP SDK) for Python 3.11 into the
# cache and prints the folder. Images copy it; tests on this machine put it on PYTHONPATH.
set -euo pipefail
cd "$(dirname "$0")"
. ../cluster/env.sh
folder=$MCPAUTH_CACHE/python-packages-$(sha256sum < parts/requirements.txt | cut -c1-12)
echo "$folder"
[ ! -e "$folder" ] || exit 0
python3 -m pip --version > /dev/null 2>&1 || fail "there is no pip for python3" "install Python 3.11 with pip"
say "installing LiteLLM and the MCP SDK from PyPI, 720 MB" "1 minute"
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --target "$work/packages" \
  --python-version 3.11 --only-binary :all: --no-deps --requirement parts/requirements.txt >&2 ||
  fail "pip failed" "read the lines above; is PyPI reachable?"
mv "$work/packages" "$folder"
