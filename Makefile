# All that one does with this repository. Clusters, images and tools are made on first use and kept in
# ~/.cache/mcp-auth; `make help` says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# `make e2e TEST=rotation` runs the tests with this in their names.
TEST ?=
in_cluster := tests/cluster/with

.PHONY: help try one-machine demo demo-down idle test test-unit test-chart test-api installations faults skew scale conformance surfaces e2e outage gateways bench soak instructions profile-guided fuzz check alerts dashboard packaging meshes policies generate site site-browser newest-litellm images cluster cluster-down clean-caches

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# WRITE=1 writes what it prints into docs/try.md, CHECK=1 compares it with that page.
document = $(if $(WRITE),--write,$(if $(CHECK),--check))
try: ## LiteLLM without mcp-auth and with it on this machine, in five steps that prove what they say; no cluster
	@tests/try/run $(document)

one-machine: ## mcp-auth exec with a LiteLLM that uv installs, by uv run and by python -m, beside the same commands without it
	@tests/one-machine/run $(document)

demo: cluster ## LiteLLM without mcp-auth and with it, on a real cluster, in five steps that prove what they say
	@settings=$$(tests/images/all); eval "$$settings"; $(in_cluster) tests/demo/run

demo-down: ## removes what the demo made
	@$(in_cluster) tests/demo/run --down

# `make idle SECONDS=60` is a short one.
SECONDS_AT_REST := $(if $(filter command line,$(origin SECONDS)),$(SECONDS),600)
idle: demo ## how many requests LiteLLM gets beside the sidecar in 10 minutes without a client, on the demo's cluster
	@$(in_cluster) tests/idle/run $(SECONDS_AT_REST)

test: CHECK = 1
test: test-unit test-chart alerts try one-machine test-api installations faults conformance surfaces e2e ## all tests

test-unit: ## unit tests of all crates; no cluster
	@tests/cluster/retire
	cargo test --locked --workspace --exclude mcp-auth-tests

test-chart: ## the Helm chart with good and bad sets of values, applied to a real API server on loopback; no cluster
	@tests/chart/run $(TEST)

test-api: ## the operator against a real API server and a real OAuth2 server, on loopback; no cluster; WRITE=1 for the table of rights
	cargo test --locked --package mcp-auth-tests --test api --test secrecy --no-run
	tests/cluster/api/with tests/api/run $(if $(WRITE),--write) $(TEST)

installations: ## the operator with the arguments and the rights that the chart gives it in its modes: cert-manager, rights by namespace
	cargo test --locked --package mcp-auth-tests --test installations --no-run
	MCPAUTH_TEST_KEYCLOAK=none MCPAUTH_TEST_OPERATOR=none tests/cluster/api/with tests/installations/run $(TEST)

faults: ## calls, tokens and statuses while replicas, their lease and the API server fail, on loopback; WRITE=1 for the table
	cargo test --locked --package mcp-auth-tests --test faults --no-run
	MCPAUTH_TEST_KEYCLOAK=none MCPAUTH_TEST_OPERATOR=none tests/cluster/api/with tests/faults/run $(if $(WRITE),--write) $(TEST)

scale: ## what many sidecars cost the operator, on loopback; writes docs/scale.md, unless SCALE_PODS or another size is set; WRITE=1 then too
	@programs=$$(tests/scale/programs); eval "$$programs"; \
	  SCALE_WRITE=$(WRITE) MCPAUTH_TEST_KEYCLOAK=none MCPAUTH_TEST_OPERATOR=none tests/cluster/api/with tests/scale/run

skew: ## the previous version's operator and sidecar with this one's, on loopback; builds them once (about 5 minutes)
	cargo test --locked --package mcp-auth-tests --test faults --no-run
	tests/skew/run

conformance: ## the official MCP conformance suite through operator and sidecar, on loopback; no cluster
	tests/conformance/run $(if $(TEST),--only $(TEST))

surfaces: ## what of the user arrives by each way that LiteLLM offers, newest and oldest LiteLLM, on loopback; no cluster
	@tests/surfaces/run

e2e: cluster ## everything, on a real cluster with a real LiteLLM
	cargo test --locked --package mcp-auth-tests --test e2e --no-run
	@settings=$$(tests/images/all); eval "$$settings"; $(in_cluster) tests/e2e/with cargo test --locked --package mcp-auth-tests --test e2e -- --test-threads=1 $(TEST)

outage: ## LiteLLM's own client_credentials beside mcp-auth through outages of the OAuth2 server; writes docs/outage.md
	@tests/outage/run

gateways: ## gateways and LiteLLM's own OAuth2 beside mcp-auth, on loopback; installs them from package registries; writes docs/comparison.md
	@tests/gateways/run

# `make bench ROUNDS=1` takes a few minutes and leaves the document as it is.
ROUNDS ?= 5
bench: ## the sidecar beside nginx, haproxy, pingora and a TCP copy, and LiteLLM with it and without; writes docs/performance.md
	@tests/bench/run --rounds $(ROUNDS) $(if $(filter 1,$(ROUNDS)),--print)
	@tests/bench/litellm/run --rounds $(ROUNDS) $(if $(filter 1,$(ROUNDS)),--silences 1 --print)

soak: ## the sidecar's memory over a million mixed requests; writes docs/performance.md
	@tests/bench/run --soak 1000000

instructions: ## instructions of one request by callgrind, against the committed count; QUICK=1, PROFILE=1, UPDATE=1
	@tests/bench/instructions $(if $(QUICK),--quick) $(if $(PROFILE),--profile) $(if $(UPDATE),--update)

profile-guided: ## the sidecar, optimised by a profile of the benchmark's load, in a folder of its own; BUILD=release
	@tests/bench/profile-guided $(or $(BUILD),release)

fuzz: ## looks for input that breaks a promise, SECONDS (30) for each parser, JOBS (1) at a time; TEST=cookies for one of them; WRITE=1 for the table
	@$(if $(filter command line,$(origin SECONDS)),FUZZ_SECONDS=$(SECONDS)) $(if $(JOBS),FUZZ_JOBS=$(JOBS)) fuzz/run $(if $(WRITE),--write) $(TEST)

check: ## format, lints, dependencies, rooms, documents, generated files, workflows, chart
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@tests/dependencies/run
	cargo test --locked --quiet --package mcp-auth-crds
	@charts/readme --check
	@tests/dependencies/workflows
	@tests/cluster/tools helm
	$(in_cluster) helm lint --strict charts/mcp-auth --set operator.image.repository=operator,sidecar.image.repository=sidecar \
	  --set prometheusRule.enabled=true --set dashboard.enabled=true

packaging: ## the wheel by uv, and the Dockerfile and the compose file for one machine, also for real where docker or podman is there
	@tests/packaging/run

meshes: ## pods that the injectors of Istio, Linkerd and Kuma have written, with LiteLLM in them, injected by the operator
	@tests/meshes/run

policies: ## pods before and after injection, judged by Kyverno and Gatekeeper, which are built from their Go modules; WRITE=1 for the table
	@tests/policies/run $(if $(WRITE),--write)

alerts: ## fires each alert of the chart with synthetic series, by promtool; looks whether the dashboard and its pictures fit
	@tests/alerts/run

dashboard: ## draws docs/dashboard: the dashboard's queries to a real Prometheus beside operator and sidecar, on loopback
	@tests/dashboard/run

generate: ## what is generated from the source: the CustomResourceDefinition and its page in docs/reference, the reference of the CLI, the values in the chart's README
	cargo run --locked --quiet --package mcp-auth-crds --bin generate
	reference=$$(cargo run --locked --quiet --package mcp-auth-cli --example reference && echo .) && \
	  sed -i '/^<!-- generated by/q' docs/cli.md && printf '%s' "$${reference%.}" >> docs/cli.md
	@charts/readme

site: ## the documentation as a site, in target/site, with its links checked
	@site/build

site-browser: site ## each page of the site in a headless Chromium as on a phone and a desktop: none too wide, no error in the console; PICTURES=FOLDER takes pictures; without Chromium skipped
	@site/browser $(PICTURES)

newest-litellm: ## moves the tests to the newest LiteLLM: the lock, the README, docs/surfaces.md
	@tests/images/python/newest

images: ## images of the product and of the tests, in the engine's store
	@tests/images/all

cluster: ## the kind cluster of demo and e2e
	@tests/cluster/up

cluster-down: ## removes the cluster
	@tests/cluster/down

clean-caches: cluster-down ## removes what was downloaded and built outside of the tree, images included
	@tests/cluster/clean-caches
