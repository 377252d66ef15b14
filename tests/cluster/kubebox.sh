#!/bin/bash
# kubebox.sh: builds, once, all the Kubernetes programs in one binary and prints the folder they are in. Needs Go.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
version=$(awk '$1 == "k8s.io/kubernetes" && NF == 2 {print $2}' kubebox/go.mod)
folder=$MCPAUTH_CACHE/kubebox-$version-$(cat kubebox/* | sha256sum | cut -c1-12)
echo "$folder"
[ ! -e "$folder" ] || exit 0
command -v go > /dev/null || fail "Kubernetes $version has to be built, and there is no Go" "install Go 1.26, or start Docker"
say "building Kubernetes $version from its Go modules, once" "6 minutes on two cores"
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT
stamp=
for package in component-base/version client-go/pkg/version; do
  stamp+=" -X k8s.io/$package.gitVersion=$version -X k8s.io/$package.gitTreeState=clean"
  stamp+=" -X k8s.io/$package.gitMajor=1 -X k8s.io/$package.gitMinor=$(cut -d. -f2 <<< "$version")"
done
mkdir "$work/bin"
(cd kubebox && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w$stamp" -o "$work/bin/kubebox" .) >&2 ||
  fail "Kubernetes could not be built" "read the lines above; 5 GB of disk and the Go module proxy are needed"
for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm kubectl etcd coredns; do
  ln -s kubebox "$work/bin/$program"
done
mv -T "$work/bin" "$folder"
