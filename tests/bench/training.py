"""The load that profile-guided optimisation learns from: requests through both halves, over TLS and HTTP/2, event streams and large
bodies. `profile-guided` starts it, with a sidecar that writes what it counted into a folder as it ends."""
import pathlib
import subprocess
import sys

import proxies
from instructions import sealed_context
from processes import start, stop_all, wait_for_port
from settings import RIG, RUN, port

REQUESTS = 20_000
# Each in its own way: kind of load, where, and with a sealed context or without.
LOADS = [
    (["count", "--requests", str(REQUESTS)], 0, "rig/mcp", True),
    (["count", "--requests", str(REQUESTS)], 1, "rig/mcp", False),
    (["count", "--requests", str(REQUESTS // 4)], 0, "righ2/mcp", True),
    (["sse", "--streams", "50", "--seconds", "3"], 0, "rig/sse", True),
    (["large", "--seconds", "1"], 0, "rig/big", True),
    (["large", "--up", "--seconds", "1"], 0, "rig/sink", True),
]
# A thousand times what it takes: counting slows the sidecar down, and others may have the processors.
LONGEST = 600


def train(counts):
    argv, environment = proxies.command("sidecar", "UP_RIG")
    environment["LLVM_PROFILE_FILE"] = str(counts / "%p.profraw")
    sidecar = start(argv, None, environment, RUN / "sidecar" / "log")
    for half in (0, 1):
        wait_for_port(port("sidecar") + half, sidecar, 60)
    proxies.wait_for_token("sidecar")
    context = sealed_context()
    for kind, half, path, has_context in LOADS:
        sealed = ["--context", context] if has_context else []
        target = f"127.0.0.1:{port('sidecar') + half}/{path}"
        subprocess.run([RIG, "load", *sealed, *kind, target], check=True, stdout=subprocess.DEVNULL, timeout=LONGEST)
    # It writes the counts as it ends.
    sidecar.terminate()
    status = sidecar.wait(LONGEST)
    if status != 0 or not any(counts.glob("*.profraw")):
        raise RuntimeError(f"the sidecar ended with {status} and wrote no counts; see sidecar/log in the folder bench-run of the cache")


def main():
    try:
        proxies.surroundings()
        train(pathlib.Path(sys.argv[1]))
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    finally:
        stop_all()


if __name__ == "__main__":
    main()
