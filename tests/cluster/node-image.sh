#!/bin/bash
# node-image.sh: prints the name of kind's node image: with Docker the ordinary one; with podman one that is made,
# once, from Debian packages and kubebox.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
if [ "$MCPAUTH_ENGINE" = docker ]; then
  echo "${MCPAUTH_NODE_IMAGE:-kindest/node:v1.36.4}"
  exit 0
fi
kubebox=$(./kubebox.sh)
image=localhost/mcp-auth-tests/node:$(cat "$0" debian.sh node/* - <<< "$kubebox" | sha256sum | cut -c1-12)
echo "$image"
! podman image exists "$image" || exit 0
exec >&2
base=$(./debian.sh catatonit containerd containernetworking-plugins iproute2 iptables kmod mount procps runc)
say "making the image of the kind node" "20 s"
version=$("$kubebox/kubeadm" version -o short)
work=$(mktemp -d -p "$MCPAUTH_CACHE")
trap 'rm -rf "$work"' EXIT

node=$work/node
mkdir "$node"
tar -xf "$base" -C "$node"
cp -a "$kubebox/." "$node/usr/local/bin"
echo "$version" | install -D /dev/stdin "$node/kind/version"
install -D -t "$node/kind/manifests" node/default-cni.yaml
install -D node/containerd.toml "$node/etc/containerd/config.toml"
install -D node/cni.conflist "$node/etc/cni/net.d/10-pods.conflist"
install -D node/kubelet.conf "$node/etc/kubernetes/kubelet.conf.d/10-node.conf"
install node/entrypoint "$node/usr/local/bin/entrypoint"

# The image of the control plane, under all the names that kubeadm asks for: kubebox, and the iptables that
# kube-proxy calls. Only CoreDNS is started without a command.
kube=$work/kube
mkdir "$kube"
cd "$node"
cp -a --parents usr/local/bin usr/sbin/*tables* usr/lib/*/xtables etc/alternatives/*tables* "$kube"
chroot . sh -c 'ldd /usr/sbin/xtables-nft-multi /usr/lib/*/xtables/*.so' | grep -o '/[^ :]*\.so\.[^ ]*' | sort -u |
  sed 's|^|.|' | xargs cp --parents -L -t "$kube"
names=$("$kubebox/kubeadm" config images list --kubernetes-version "$version" | grep -v /pause:)
tar -c -C "$kube" . | podman import --quiet --change 'ENV PATH=/usr/local/bin:/usr/sbin' \
  --change 'ENTRYPOINT ["coredns"]' - localhost/kube
tar -c -C usr/bin catatonit | podman import --quiet --change 'ENTRYPOINT ["/catatonit", "-P"]' - localhost/pause
podman tag localhost/kube $names
podman save --quiet --multi-image-archive --output kind/images.tar localhost/pause $names
podman rmi --force localhost/pause localhost/kube $names > /dev/null

tar -c . | podman import --quiet --change 'ENTRYPOINT ["entrypoint"]' - "$image"
