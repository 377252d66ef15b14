#!/bin/bash
# apiserver.sh FOLDER [PORT]: etcd and kube-apiserver alone, on loopback, until this script is ended.
# FOLDER/kubeconfig is there once they are ready. etcd has the two ports after PORT. The programs are kubebox's, or
# those in KUBEBUILDER_ASSETS (as `setup-envtest` installs them).
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
unset KUBECONFIG
programs=${KUBEBUILDER_ASSETS:-$(./kubebox.sh)}
mkdir -p "$1"
folder=$(realpath "$1")
port=${2:-16443}
PATH=$programs:$PATH
cd "$folder"
trap 'kill -KILL $(jobs -p) 2> /dev/null' EXIT # what they hold is thrown away
trap exit INT TERM

etcd=http://127.0.0.1:$((port + 1))
peer=http://127.0.0.1:$((port + 2))
etcd --data-dir etcd --unsafe-no-fsync --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
  --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" > etcd.log 2>&1 &

token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" > tokens
openssl ecparam -name prime256v1 -genkey -noout -out account.key
kube-apiserver --etcd-servers "$etcd" --bind-address 127.0.0.1 --secure-port "$port" --cert-dir . \
  --token-auth-file tokens --authorization-mode RBAC --service-cluster-ip-range 10.96.0.0/16 \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file account.key \
  --service-account-signing-key-file account.key --disable-admission-plugins ServiceAccount > apiserver.log 2>&1 &

cat > kubeconfig.new << END
apiVersion: v1
kind: Config
clusters: [{name: apiserver, cluster: {server: "https://127.0.0.1:$port", certificate-authority: $folder/apiserver.crt}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: apiserver, context: {cluster: apiserver, user: admin}}]
current-context: apiserver
END
for _ in $(seq 600); do
  ! kubectl --kubeconfig kubeconfig.new get --raw /readyz > /dev/null 2>&1 || break
  jobs %2 > /dev/null || fail "the API server ended: $(tail -1 apiserver.log)" "read $folder/apiserver.log"
  sleep 0.1
done
mv kubeconfig.new kubeconfig
wait -n
