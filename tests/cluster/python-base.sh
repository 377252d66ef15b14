#!/bin/bash
# python-base.sh: prints the name of an image with Python 3.11: with Docker the public one, with podman one made,
# once, from Debian packages.
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
if [ "$MCPAUTH_ENGINE" = docker ]; then
  echo docker.io/library/python:3.11-slim
  exit 0
fi
image=localhost/mcp-auth-tests/python-base:12
echo "$image"
podman image exists "$image" || podman import --quiet "$(./debian.sh python3 ca-certificates)" "$image" >&2
