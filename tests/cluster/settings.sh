# settings.sh, to be sourced by the scripts of this folder and by those that use its cluster: where things lie,
# what they are called, and which engine runs them. Each setting can be overridden from outside:
#
#   MCPAUTH_TEST_CLUSTER   name of the kind cluster (default: mcp-auth)
#   MCPAUTH_TEST_ENGINE    docker or podman (default: docker where its daemon answers, else podman); none for what needs neither
#   MCPAUTH_TEST_CACHE     what is built or downloaded, outside the tree (default: ~/.cache/mcp-auth)
#   MCPAUTH_TEST_INTERPRETER  the Python of this machine for what find_python is called for (default: the first that serves)

cluster_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$cluster_folder/../.." && pwd)

export MCPAUTH_TEST_CLUSTER=${MCPAUTH_TEST_CLUSTER:-mcp-auth}
export MCPAUTH_TEST_CACHE=${MCPAUTH_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mcp-auth}
cache=$MCPAUTH_TEST_CACHE
cluster=$MCPAUTH_TEST_CLUSTER
mkdir -p "$cache/bin"

# A kubeconfig of our own: the user's own file and its current context are never touched.
export KUBECONFIG=$cache/kubeconfig-$cluster

kind_version=v0.33.0
helm_version=v4.3.1
helm3_version=v3.22.0
kube_score_version=v1.20.0
kubeconform_version=v0.8.0
actionlint_version=v1.7.12
checkov_version=3.3.30
# The commit whose chart `make e2e` upgrades from, to the one that is there, while calls go on.
earlier_chart=61cc15d882a3a71b1056903d7999bcfbc0a98399
cert_manager_version=v1.21.2
prometheus_operator_version=v0.85.0

# Programs that this machine lacked lie in the cache. What is on the PATH comes first, so that its versions rule.
export PATH=$PATH:$cache/bin

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() {
  printf '\033[1;31merror:\033[0m %s\n' "$*" >&2
  exit 1
}

# find_python [VERSION...]: exports MCPAUTH_TEST_INTERPRETER, a Python of this machine that LiteLLM's packages exist for, with pip.
# 3.11 comes first, since the images have it; 3.10 takes packages of its own, which not all that is tested has. The versions
# stated are the ones that serve instead.
find_python() {
  local candidate version versions=" ${*:-3.11 3.12 3.13} " found=""
  for candidate in ${MCPAUTH_TEST_INTERPRETER:-python3.11 python3 python3.13 python3.12 python3.10}; do
    # Of pyenv's, one that is not switched on is on the PATH and does not run.
    version=$("$candidate" -c 'import sys; print("%d.%d %s" % (*sys.version_info[:2], sys.executable))' 2> /dev/null) || continue
    if [[ $versions != *" ${version%% *} "* ]]; then
      found+="; $candidate is Python ${version%% *}"
    elif ! "$candidate" -m pip --version > /dev/null 2>&1; then
      found+="; $candidate has no pip (Debian: apt-get install python3-pip)"
    else
      export MCPAUTH_TEST_INTERPRETER=${version#* }
      return
    fi
  done
  found=${found:-; none that runs}
  die "a Python with pip is needed, of one of the versions$versions""that LiteLLM's packages are installed for here. Found: ${found#; }. Install one, or name it by MCPAUTH_TEST_INTERPRETER"
}

# once NAME: until this script ends no other script gets past the same line, so that two builds of one thing do
# not run at a time. Without `flock` (macOS) it lets all pass.
once() {
  command -v flock > /dev/null || return 0
  exec 9> "$cache/$1.lock"
  flock --nonblock 9 || {
    say "waiting for another build of $1"
    flock 9
  }
}

# Linux has the one, macOS the other.
if command -v sha256sum > /dev/null; then sha256=(sha256sum); else sha256=(shasum -a 256); fi

# fingerprint FILE...: twelve characters that change with any of the files' names or content.
fingerprint() { (cd "$cluster_folder/.." && find "$@" -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 "${sha256[@]}" | "${sha256[@]}" | cut -c1-12); }

# A docker command that is podman in disguise does not count: kind speaks to the two in different ways.
docker_answers() { [[ $(docker info --format '{{.ServerVersion}} {{.OSType}}' 2> /dev/null) == *linux* ]]; }

if [ -z "${MCPAUTH_TEST_ENGINE:-}" ]; then
  if docker_answers; then MCPAUTH_TEST_ENGINE=docker; else MCPAUTH_TEST_ENGINE=podman; fi
fi
export MCPAUTH_TEST_ENGINE
engine=$MCPAUTH_TEST_ENGINE
case $engine in
  docker | none) ;;
  podman)
    [ "$(uname -s)" = Linux ] || die "no Docker daemon answers, and without Docker the cluster needs Linux. Start Docker and try again."
    [ ! -e /sys/fs/cgroup/cgroup.controllers ] ||
      die "no Docker daemon answers, and this machine has cgroup v2, where the node image made here does not run. Install or start Docker (\`docker info\` must work) and try again."
    export KIND_EXPERIMENTAL_PROVIDER=podman
    export CONTAINERS_CONF=$cache/containers.conf
    # podman gives a container more open files than a process without CAP_SYS_RESOURCE may ask for, and lowers
    # its own number of processes to 32768; crun refuses cgroup v1 where a cgroup2 hierarchy has a controller too.
    cat > "$CONTAINERS_CONF.$$" << CONF
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=32768:32768"]
[engine]
runtime = "runc"
CONF
    mv "$CONTAINERS_CONF.$$" "$CONTAINERS_CONF"
    ;;
  *) die "MCPAUTH_TEST_ENGINE is '$engine': it must be docker, podman or none" ;;
esac

has_image() { "$engine" image inspect "$1" > /dev/null 2>&1; }
