#!/bin/bash
# binaries.sh: builds the operator and the sidecar as static programs, without the long link-time optimisation of a
# release, and prints the folder they are in.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/cluster/env.sh
target=${CARGO_TARGET_DIR:-$PWD/target}
triple=$(uname -m)-unknown-linux-gnu
say "building operator and sidecar" "3 minutes the first time, seconds later"
# Naming the target keeps the flag from build scripts and procedural macros, which must stay dynamic.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --profile e2e --target "$triple" \
  --package mcp-auth-operator --package mcp-auth-sidecar >&2 ||
  fail "the build failed" "read the lines above; Rust 1.95 is needed"
echo "$target/$triple/e2e"
