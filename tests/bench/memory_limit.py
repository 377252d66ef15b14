"""A memory cgroup for one process, of version 1 or 2, and what the kernel counts in it."""
import contextlib
import os
import pathlib
import time

_ROOT = pathlib.Path("/sys/fs/cgroup")
# Of each version: its root, what separates the own path in /proc/self/cgroup, and the files of limit and peak.
_VERSIONS = [
    (_ROOT / "memory", ":memory:", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    (_ROOT, "0::", "memory.max", "memory.peak"),
]


class MemoryLimit:
    """With so many bytes, until it is left. `None` comes of `with` where this machine has none to give: that takes root, and
    with version 2 the memory controller."""

    def __init__(self, limit):
        self._limit, self._path, self._peak = limit, None, None

    def __enter__(self):
        own = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        for root, separator, limit, peak in _VERSIONS:
            mine = next((line.split(separator, 1)[1] for line in own if separator in line), None)
            # In version 2 a cgroup with processes of its own limits none below it: those around it do.
            for parent in [] if mine is None else [pathlib.Path(mine), *pathlib.Path(mine).parents]:
                path = root / str(parent).lstrip("/") / f"mcp-auth-bench-{os.getpid()}"
                try:
                    path.mkdir()
                except OSError:
                    continue
                try:
                    (path / limit).write_text(str(self._limit))
                except OSError:
                    path.rmdir()
                    continue
                self._path, self._peak = path, path / peak
                return self
        return None

    def __exit__(self, *_):
        # The kernel may take a moment to let go of a process that has ended.
        for _ in range(200):
            if self._path is None:
                return
            with contextlib.suppress(OSError):
                self._path.rmdir()
                self._path = None
            time.sleep(0.01)

    def around(self, argv):
        """The command with which the program runs in it."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._path / "cgroup.procs"), *argv]

    def peak(self):
        """The most that was held at a time, in bytes; `None` before Linux 5.19 with version 2."""
        try:
            return int(self._peak.read_text())
        except OSError:
            return None

    def times_at_limit(self):
        try:
            return int((self._path / "memory.failcnt").read_text())
        except OSError:
            events = (self._path / "memory.events").read_text().splitlines()
            return next(int(line.split()[1]) for line in events if line.startswith("max "))
