"""What run says by environment, and the ports of everything that takes part."""
import os
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent.parent
CACHE = pathlib.Path(os.environ["MCPAUTH_TEST_CACHE"])
RUN = CACHE / "bench-run"
TLS = RUN / "tls"
DEBIAN = pathlib.Path(os.environ.get("MCPAUTH_BENCH_PEERS", "/nonexistent")) / "root"
SIDECAR = os.environ["MCPAUTH_BENCH_SIDECAR"]
RIG = os.environ["MCPAUTH_BENCH_RIG"]
PINGORA = os.environ.get("MCPAUTH_BENCH_PINGORA", "")

# One processor for the proxy that is measured, another for everything else, where there are two. A container may have any of them.
_CPUS = sorted(os.sched_getaffinity(0))
LOAD_CPU, PROXY_CPU = str(_CPUS[0]), str(_CPUS[-1] if len(_CPUS) < 3 else _CPUS[1])

_FIRST = int(os.environ.get("MCPAUTH_BENCH_PORT", "21000"))
PORTS = {
    name: _FIRST + at
    for at, name in enumerate(["UP_PLAIN", "UP_TLS", "UP_H2", "UP_RIG", "UP_RIG_TLS", "RELAY", "RELAY_COPY", "OPERATOR"])
}
# Each proxy has four ports.
PROXIES = ["copy", "sidecar", "nginx", "haproxy", "pingora", "chain", "chain-copy", "soak"]


def port(proxy):
    return _FIRST + 16 + 4 * PROXIES.index(proxy)


def library_path():
    return ":".join(str(folder) for folder in (DEBIAN / "usr/lib").glob("*-linux-gnu"))


def filled(text, **more):
    for name, value in {"TLS": TLS, **PORTS, **more}.items():
        text = text.replace(f"@{name}@", str(value))
    return text
