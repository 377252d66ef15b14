#!/bin/bash
# load.sh IMAGE...: puts images into the node, those that it does not have yet.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
node=$MCPAUTH_CLUSTER-control-plane
there=$("$MCPAUTH_ENGINE" exec "$node" crictl images --output json 2> /dev/null ||
  "$MCPAUTH_ENGINE" exec "$node" ctr --namespace k8s.io images list --quiet)
missing=()
for image in "$@"; do
  grep -qF "$image" <<< "$there" || missing+=("$image")
done
[ ${#missing[@]} -gt 0 ] || exit 0
say "loading ${missing[*]##*/} into the node" "5 to 20 s"
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT
if [ "$MCPAUTH_ENGINE" = podman ]; then
  podman save --quiet --multi-image-archive --output "$work/images.tar" "${missing[@]}"
else
  docker save --output "$work/images.tar" "${missing[@]}"
fi
kind load image-archive --name "$MCPAUTH_CLUSTER" "$work/images.tar" 2> "$work/log" ||
  { cat "$work/log" >&2; fail "the images could not be loaded" "is the cluster up? run '$PWD/up.sh'"; }
