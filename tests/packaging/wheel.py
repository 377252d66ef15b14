"""wheel.py UV WHEEL: runs the wheel's program by `uv tool run`, with a stand-in for LiteLLM's process, and ends it as a user does."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

STAND_IN = Path(__file__).resolve().parents[2] / "local" / "tests" / "litellm.py"
# Only a run that fails takes so long.
LIMIT = 300


def check(holds: bool, what: str, found: object = "") -> None:
    if not holds:
        sys.exit(f"error: {what}: {found}")


def metadata(wheel: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        check(any(name.endswith(".data/scripts/mcp-auth") for name in names), "the wheel holds no program mcp-auth", names)
        return archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()


def until(what: str, look) -> None:
    end = time.monotonic() + LIMIT
    while not look():
        check(time.monotonic() < end, f"it never came to this: {what}")
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """A zombie has ended, and waits for its parent only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    uv, wheel = sys.argv[1:]
    stated = metadata(wheel)
    check("Provides-Extra: litellm" in stated, "the wheel does not offer LiteLLM", stated)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        litellm = folder / "bin" / "litellm"
        litellm.write_text(STAND_IN.read_text())
        litellm.chmod(0o755)
        (folder / "config.yaml").write_text("{}")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        environment = os.environ | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "REPORT": str(folder / "report"),
            "TMPDIR": name,
            "UV_CACHE_DIR": str(folder / "uv"),
            "UV_OFFLINE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        run = [uv, "tool", "run", "--from", wheel, "mcp-auth"]
        version = subprocess.run([*run, "--version"], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
        check(version.stdout.startswith("mcp-auth "), "the program does not run", version)
        command = [*run, "exec", "--", "litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        report = folder / "report"
        until("LiteLLM runs", lambda: report.exists() or process.poll() is not None)
        check(report.exists(), "it ended", (folder / "log").read_text())
        pids = json.loads(report.read_text())
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=LIMIT)
        check(code == 7, "the exit code is not LiteLLM's", f"{code}: {(folder / 'log').read_text()}")
        until("nothing is left", lambda: not any(is_alive(pids[name]) for name in ("pid", "sleeper", "parent")))


if __name__ == "__main__":
    main()
