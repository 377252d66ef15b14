#!/bin/bash
# down.sh: removes the cluster. What is cached stays.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
command -v kind > /dev/null || exit 0
say "removing the kind cluster $MCPAUTH_CLUSTER"
kind delete cluster --quiet --name "$MCPAUTH_CLUSTER"
