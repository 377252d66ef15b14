#!/bin/bash
# tools.sh: installs, once, what the cluster and the tests need: Debian packages (podman, runc, debootstrap;
# only where there is no Docker), and kind, helm and kubectl, where the PATH has none, into the cache.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
kind_version=v0.33.0
helm_version=v4.3.1

if [ "$MCPAUTH_ENGINE" = podman ]; then
  if [ ! -e /sys/fs/cgroup/memory/cgroup.procs ]; then
    fail "this machine has cgroup v2 and no Docker daemon" "start Docker: kind's own node image then does the rest"
  fi
  missing=()
  for pair in podman:podman runc:runc debootstrap:debootstrap openssl:openssl; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get > /dev/null || fail "no Docker daemon answers, and this is not Debian" "start Docker"
    say "installing ${missing[*]} with apt-get" "20 s"
    (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq "${missing[@]}") > "$MCPAUTH_CACHE/apt.log" 2>&1 ||
      fail "apt-get failed: $(tail -1 "$MCPAUTH_CACHE/apt.log")" "run it as root, or install by hand: ${missing[*]}"
  fi
fi

# go_install NAME PACKAGE HOW-LONG
go_install() {
  command -v "$1" > /dev/null && return
  command -v go > /dev/null || fail "$1 is not on the PATH, and there is no Go to build it with" "install $1 or Go 1.26"
  say "building $1 from its Go module" "$3"
  GOBIN=$MCPAUTH_CACHE/bin go install "$2" || fail "$1 could not be built" "read the lines above; is the Go module proxy reachable?"
}
go_install kind "sigs.k8s.io/kind@$kind_version" "25 s"
go_install helm "helm.sh/helm/v4/cmd/helm@$helm_version" "2 minutes"
if ! command -v kubectl > /dev/null; then
  ln -sf "$(./kubebox.sh)/kubectl" "$MCPAUTH_CACHE/bin/kubectl"
fi
