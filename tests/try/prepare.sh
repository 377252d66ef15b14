# prepare.sh, to be sourced: what LiteLLM on one machine is tried with, on loopback and without a cluster: mcp-auth, the packages of
# LiteLLM and of the MCP server, and the OAuth2 server. Programs find them by what is exported.
#
# From outside: MCPAUTH_TEST_LOCAL_BINARY, an mcp-auth to take instead of building one, and what settings.sh takes.

# So that no machine is refused for its containers' sake.
export MCPAUTH_TEST_ENGINE=none
. "$(dirname "${BASH_SOURCE[0]}")/../cluster/settings.sh"
cd "$repository"
command -v cargo > /dev/null || die "Rust is needed to build mcp-auth: install it with rustup and try again"
# When this began, and what was there then: nothing ("first"), all ("again") or a part ("").
started=$(date +%s)
target=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
state=first
if compgen -G "$cache/python-packages-*" > /dev/null; then state=; fi
if [ -e "$target/debug/mcp-auth" ]; then
  if [ -z "$state" ]; then state=again; else state=; fi
fi
find_python 3.10 3.11 3.12 3.13
# One part waits for the network while the other compiles.
log=$(mktemp -t mcp-auth-try.XXXXXX)
trap 'rm -f "$log"' EXIT
(tests/images/python/packages --for "$MCPAUTH_TEST_INTERPRETER" && tests/images/oauth/packages) > "$log" &
packages=$!
binary=${MCPAUTH_TEST_LOCAL_BINARY:-}
if [ -z "$binary" ]; then
  say "building mcp-auth (some minutes the first time)"
  cargo build --locked --package mcp-auth-local >&2 || die "cargo build failed; see its message above"
  binary=$target/debug/mcp-auth
fi
wait "$packages" || die "what LiteLLM and the servers need could not be installed; see the message above"
{ read -r python_packages; read -r MCPAUTH_LOOPBACK_OAUTH_SERVER; } < "$log"
export MCPAUTH_LOOPBACK_OAUTH_SERVER
export MCPAUTH_TRY_PROGRAM=$binary
export MCPAUTH_TEST_PROGRAMS=$repository/tests/images/python/programs
export PYTHONPATH=$python_packages PYTHONDONTWRITEBYTECODE=1
export MCPAUTH_TEST_PYTHON=$MCPAUTH_TEST_INTERPRETER
