#!/bin/bash
# debian.sh PACKAGE...: makes, once, a tar of a minimal Debian 12 with these packages and prints its path.
set -euo pipefail
. "$(dirname "$0")/env.sh"
packages=$(IFS=,; echo "$*")
tar=$MCPAUTH_CACHE/debian-$(sha256sum <<< "$packages" | cut -c1-12).tar
echo "$tar"
[ ! -e "$tar" ] || exit 0
exec >&2
say "making a minimal Debian with $*" "50 s"
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include="$packages" bookworm "$work/root" > "$work/log" ||
  { tail -5 "$work/log"; fail "debootstrap failed" "it needs root and Debian's package archive"; }
cd "$work/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/{doc,man,locale,info}
tar -cf "$work/tar" .
mv "$work/tar" "$tar"
