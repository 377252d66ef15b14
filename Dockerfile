# The images of mcp-auth, static programs on nothing. The operator's also holds kubectl's plugin, for `helm test`:
#
#   docker build --target operator --tag mcp-auth-operator .
#   docker build --target sidecar --tag mcp-auth-sidecar .
#   docker build --target local --tag mcp-auth .    # for one machine: to be copied into LiteLLM's image

# An image with `--sbom` lists the crates of Cargo.lock: static programs on nothing show none of them.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

FROM rust:1.95-slim-bookworm AS source
# Python puts the load on the sidecar that its optimisation learns from.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3
# yes, required or no: whether the sidecar is optimised by a profile of its load (tests/bench/profile-guided), which takes a second
# build of it.
ARG PROFILE_GUIDED=yes
RUN [ "$PROFILE_GUIDED" = no ] || rustup component add llvm-tools || echo "warning: rustup cannot add llvm-tools"
WORKDIR /source
COPY . .
ARG PROFILE=release
# A static glibc needs a target named explicitly: without it the flag would reach procedural macros too.
ENV RUSTFLAGS="-C target-feature=+crt-static"

FROM source AS build
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    target=$(rustc -vV | sed -n 's/^host: //p') && \
    cargo build --locked --profile "$PROFILE" --target "$target" --bin mcp-auth-operator --bin kubectl-mcp_auth && \
    sidecar=$(tests/bench/profile-guided "$PROFILE") && \
    install -D --target-directory /product "target/$target/$PROFILE/mcp-auth-operator" "target/$target/$PROFILE/kubectl-mcp_auth" "$sidecar" && \
    cp /etc/ssl/certs/ca-certificates.crt /product

# The program for one machine is built for its own image only.
FROM source AS build-local
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    program=$(tests/bench/profile-guided --program mcp-auth "$PROFILE") && \
    install -D --target-directory /local "$program"

FROM scratch AS local
COPY --from=build-local /local/mcp-auth /mcp-auth
ENTRYPOINT ["/mcp-auth"]

# What the images are made of. Tests put programs here that were built outside (`--build-context product=FOLDER`).
FROM scratch AS product
COPY --from=build /product /

FROM scratch AS operator
COPY --from=product /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=product /mcp-auth-operator /mcp-auth-operator
COPY --from=product /kubectl-mcp_auth /kubectl-mcp_auth
USER 65532:65532
ENTRYPOINT ["/mcp-auth-operator"]

FROM scratch AS sidecar
COPY --from=product /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=product /mcp-auth-sidecar /mcp-auth-sidecar
USER 65532:65532
ENTRYPOINT ["/mcp-auth-sidecar"]
