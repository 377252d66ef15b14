# env.sh, to be sourced: where everything that is made once is kept, and which container engine makes it.
#
# MCPAUTH_CACHE    folder of the cache         (default: ~/.cache/mcp-auth)
# MCPAUTH_ENGINE   docker or podman            (default: docker where its daemon answers, else podman)
# MCPAUTH_CLUSTER  name of the kind cluster    (default: mcp-auth)
export MCPAUTH_CACHE=${MCPAUTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mcp-auth}
export MCPAUTH_CLUSTER=${MCPAUTH_CLUSTER:-mcp-auth}
mkdir -p "$MCPAUTH_CACHE/bin"
export PATH=$MCPAUTH_CACHE/bin:$PATH
# A kubeconfig of our own: the user's, and its current context, stay as they are.
export KUBECONFIG=$MCPAUTH_CACHE/kubeconfig-$MCPAUTH_CLUSTER

if [ -z "${MCPAUTH_ENGINE:-}" ]; then
  if docker info > /dev/null 2>&1; then MCPAUTH_ENGINE=docker; else MCPAUTH_ENGINE=podman; fi
fi
export MCPAUTH_ENGINE

# say WHAT [HOW LONG]: one line about a step that starts.
say() { printf '\033[1m==>\033[0m %s%s\n' "$1" "${2:+ (usually $2)}" >&2; }
# fail WHAT WHAT-TO-DO
fail() { printf '\033[1merror:\033[0m %s\n       %s\n' "$1" "$2" >&2; exit 1; }

if [ "$MCPAUTH_ENGINE" = podman ]; then
  export KIND_EXPERIMENTAL_PROVIDER=podman
  export CONTAINERS_CONF=$MCPAUTH_CACHE/containers.conf
  # podman gives a container more open files than a process without CAP_SYS_RESOURCE may ask for, and lowers its
  # own number of processes to 32768; crun refuses cgroup v1 where a cgroup2 hierarchy has a controller too.
  cat > "$CONTAINERS_CONF.$$" << END
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=32768:32768"]
[engine]
runtime = "runc"
END
  mv "$CONTAINERS_CONF.$$" "$CONTAINERS_CONF"
fi
