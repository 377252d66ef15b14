"""Programs that run beside this one, each with a log of its own: started, waited for, and ended with it."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

# The bound, in seconds, of all that a run waits for: only a run that fails takes so long. On a busy machine eight
# LiteLLMs that start at the same time take minutes.
LIMIT = 600


class Broken(Exception):
    """The ground does not stand, so that nothing can be measured."""


class Processes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[tuple[str, subprocess.Popen]] = []
        self.started: dict[str, tuple[list[str], dict[str, str] | None]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_error) -> None:
        for _, process in self.running:
            process.terminate()
        for _, process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        with open(self.log(name), "w") as log:
            everything = os.environ | (environment or {})
            process = subprocess.Popen(command, env=everything, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append((name, process))
        self.started[name] = (command, environment)

    def stop(self, name: str) -> None:
        """Ends the program, until it is started again as it was."""
        for entry in [entry for entry in self.running if entry[0] == name]:
            self.running.remove(entry)
            entry[1].terminate()
            entry[1].wait(LIMIT)

    def wait(self, name: str) -> int:
        """Until the program ends by itself; its exit code."""
        return self.process(name).wait(LIMIT)

    def process(self, name: str) -> subprocess.Popen:
        return next(process for known, process in self.running if known == name)

    def start_again(self, name: str, *more: str) -> None:
        """As it was, with these arguments besides, of which it does not know the next time."""
        command, environment = self.started[name]
        self.start(name, [*command, *more], environment)
        self.started[name] = (command, environment)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def until_up(self, name: str, url: str) -> None:
        """Asks until the program answers at this URL with 200."""
        process = self.process(name)
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        last = "".join(self.log(name).read_text().splitlines(keepends=True)[-20:])
        raise Broken(f"{name} does not answer at {url}; its log {self.log(name)} ends so:\n{last}")
