"""Processes that are started, measured from outside, and ended."""
import os
import re
import signal
import socket
import subprocess
import time

from settings import library_path

_started = []


def start(argv, cpu=None, env=None, log=None):
    """In a session of its own, so that all its processes end with it."""
    pinned = ["taskset", "-c", cpu, *argv] if cpu else argv
    environment = {**os.environ, **(env or {})}
    if "bench-peers" in argv[0]:
        environment["LD_LIBRARY_PATH"] = library_path()
    out = open(log, "w") if log else subprocess.DEVNULL
    process = subprocess.Popen(pinned, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    _started.append(process)
    return process


def stop(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(3)
            break
        except subprocess.TimeoutExpired:
            continue
    if process in _started:
        _started.remove(process)


def stop_all():
    for process in list(_started):
        stop(process)


def wait_for_port(port, process=None, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process and process.poll() is not None:
                break
            time.sleep(0.01)
    raise RuntimeError(f"nobody listens on port {port}; see the logs in the folder bench-run of the cache")


def is_free(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return False
    except OSError:
        return True


def _tree(pid):
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = open(f"/proc/{name}/stat").read()
            except OSError:
                continue
            children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def cpu_seconds(pid):
    """Of the process, its threads and its children; the scheduler counts nanoseconds."""
    total = 0
    for process in _tree(pid):
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                total += int(open(f"/proc/{process}/task/{thread}/schedstat").read().split()[0])
        except OSError:
            continue
    return total / 1e9


def pss_kb(pid):
    total = 0
    for process in _tree(pid):
        try:
            total += int(re.search(r"\nPss:\s+(\d+)", open(f"/proc/{process}/smaps_rollup").read())[1])
        except (OSError, TypeError):
            continue
    return total


def busy_seconds(cpu):
    """How long a processor was busy, with whatever programs."""
    for line in open("/proc/stat"):
        if line.startswith(f"cpu{cpu} "):
            user, nice, system, _, _, irq, soft, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Window:
    """What a process used between two moments, and what others used of its processor."""

    def __init__(self, process, cpu):
        self.pid, self.processor = process and process.pid, cpu

    def __enter__(self):
        self._busy = busy_seconds(self.processor)
        self._cpu = cpu_seconds(self.pid) if self.pid else 0
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._begun
        self.cpu = (cpu_seconds(self.pid) if self.pid else 0) - self._cpu
        others = busy_seconds(self.processor) - self._busy - self.cpu
        self.others = max(0.0, others / self.seconds) if self.pid else 0.0
