#!/bin/bash
# build.sh: builds, where anything they are made of has changed, the images of the tests and of the product, and
# writes their names to images.env in the cache: PARTS_IMAGE, OAUTH_IMAGE, OPERATOR_IMAGE, SIDECAR_IMAGE.
set -euo pipefail
cd "$(dirname "$0")"
. ../cluster/env.sh
engine=$MCPAUTH_ENGINE
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT

# image NAME HASH HOW-LONG: the image of the folder $work/NAME, whose content has that hash.
image() {
  local image=localhost/mcp-auth-tests/$1:$2
  if ! "$engine" image inspect "$image" > /dev/null 2>&1; then
    say "building the image $1" "$3"
    "prepare_$1"
    "$engine" build --quiet --build-arg "BASE=$base" --tag "$image" "$work/$1" > "$work/log" 2>&1 ||
      { cat "$work/log" >&2; fail "the image $1 could not be built" "read the lines above"; }
    rm -rf "${work:?}/$1"
  fi
  echo "$(tr 'a-z' 'A-Z' <<< "$1")_IMAGE=$image" >> "$work/images.env"
}
hash() { cat "$@" | sha256sum | cut -c1-12; }

prepare_parts() {
  cp -r parts "$work/parts"
  cp -a "$packages" "$work/parts/packages"
}
prepare_oauth() {
  cp -r oauth "$work/oauth"
  cp -a "$node/node" "$node/node_modules" "$work/oauth"
}
prepare_operator() { product operator mcp-auth-operator; }
prepare_sidecar() { product sidecar mcp-auth; }
product() {
  mkdir "$work/$1"
  install -m 0755 "$binaries/$2" "$work/$1/binary"
  cp "$certificates" "$work/$1/ca-certificates.crt"
  cat > "$work/$1/Containerfile" << END
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY binary /$2
USER 65532:65532
ENTRYPOINT ["/$2"]
END
}

base=$(../cluster/python-base.sh)
packages=$(./packages.sh)
node=$(./node-modules.sh)
binaries=$(./binaries.sh)
certificates=/etc/ssl/certs/ca-certificates.crt
[ -e "$certificates" ] || fail "$certificates does not exist" "install Debian's package ca-certificates"
image parts "$(hash parts/Containerfile parts/requirements.txt parts/bin/* parts/scripts/*)" "1 minute"
image oauth "$(hash oauth/* ./node-modules.sh)" "10 s"
image operator "$(hash "$binaries/mcp-auth-operator")" "2 s"
image sidecar "$(hash "$binaries/mcp-auth")" "2 s"
mv "$work/images.env" "$MCPAUTH_CACHE/images.env"
