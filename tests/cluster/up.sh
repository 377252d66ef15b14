#!/bin/bash
# up.sh: a kind cluster. Does nothing where it is up already.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
./tools.sh
if kind get clusters 2> /dev/null | grep -qx "$MCPAUTH_CLUSTER"; then
  kind export kubeconfig --quiet --name "$MCPAUTH_CLUSTER" --kubeconfig "$KUBECONFIG"
  ! kubectl get --raw /readyz > /dev/null 2>&1 || exit 0
  say "the cluster $MCPAUTH_CLUSTER does not answer: making it anew"
  ./down.sh
fi
image=$(./node-image.sh)
say "starting the kind cluster $MCPAUTH_CLUSTER with $MCPAUTH_ENGINE" "30 s"
[ "$MCPAUTH_ENGINE" = docker ] || mkdir -p /lib/modules # kind mounts it into the node
kind create cluster --name "$MCPAUTH_CLUSTER" --image "$image" --config kind.yaml --wait 180s --quiet ||
  fail "kind could not make the cluster" "run '$PWD/down.sh' and try again; '$MCPAUTH_ENGINE logs $MCPAUTH_CLUSTER-control-plane' says more"
kubectl --namespace kube-system rollout status deployment/coredns --timeout 120s > /dev/null
