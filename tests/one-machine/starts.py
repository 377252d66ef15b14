#!/usr/bin/env python3
"""LiteLLM started by `mcp-auth exec` in the ways that docs/one-machine.md names, each with a real LiteLLM: its tools are there, signals
reach it, the exit code is the one that the same command has without mcp-auth, and no process and no file is left behind. Needs what
`make one-machine` prepares.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / folder) for folder in ("demo", "loopback", "try")]

import printed
import processes
from document import part_of, put_into
from ground import FROM_ITS_PACKAGE, KEY, Ground, local, setting
from promises import CLIENT, TOOL_NAMES
from terminal import LIMIT, PLAIN, RED, Broken, check, shown, step, until

MARKS = ("<!-- exec with a real LiteLLM: begin -->", "<!-- exec with a real LiteLLM: end -->")
MARK = "MCPAUTH_ONE_MACHINE_RUN"
CONFIGURATION = """\
general_settings: {{master_key: os.environ/MASTER_KEY}}
mcp_servers:
  tools:
    url: {url}
    allow_all_keys: true
"""
PROJECT = """\
[project]
name = "proxy"
version = "0"
requires-python = "=={version}.*"
dependencies = [{dependencies}]

[tool.uv]
environments = ["sys_platform == 'linux'"]
override-dependencies = [{overrides}]
"""
# What a slow machine is told besides.
SLOW = re.compile(r"after \d+ s LiteLLM ")
# Of LiteLLM's output, lines that say where it is; the rest of what it prints is banners.
TELLING = re.compile(r"INFO: +(Started|Waiting|Application|Uvicorn|Shutting|Finished)")


@dataclass
class Run:
    """One process of a user, with all that it starts."""

    name: str
    process: subprocess.Popen
    log: Path
    port: int
    mark: str
    temporary: Path
    words: list[str]

    def log_text(self) -> str:
        return self.log.read_text()

    def until_ready(self) -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            if self.is_ready():
                return
            time.sleep(0.2)
        raise Broken(f"{self.name}: LiteLLM is not ready; {self.log} ends so:\n{self.log_text()[-2000:]}")

    def is_ready(self) -> bool:
        # Of mcp-auth by what it says: a request before that would be one more line in its log.
        if self.words[0] == "mcp-auth":
            return '"LiteLLM is ready"' in self.log_text()
        with contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(f"{local(self.port)}/health/readiness", timeout=5):
                return True
        return False

    def exit_code(self) -> int:
        """As a shell has it."""
        code = self.process.wait(LIMIT)
        return 128 - code if code < 0 else code

    def processes(self) -> list[int]:
        """Those that were started in this run, but for ones that have ended and ones whose environment is closed."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                is_marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if is_marked and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(int(entry.name))
        return found

    def leaves_nothing(self) -> None:
        until(f"no process of {self.name} is left", lambda: not self.processes())
        until(f"no file of {self.name} is left", lambda: not list(self.temporary.glob("mcp-auth-*")))


class Starts:
    def __init__(self, running: processes.Processes) -> None:
        self.folder = running.folder
        self.runs: list[Run] = []
        self.ground = Ground(running)
        # Tokens that are not renewed meanwhile.
        self.servers = self.ground.start_servers("tools", lifetime=3600)
        secret = self.ground.write("client-secret", self.servers["secret"])
        self.settings = {
            "MCP_OAUTH2_TOKEN_URL": self.servers["token"],
            "MCP_OAUTH2_CLIENT_ID": CLIENT,
            "MCP_OAUTH2_CLIENT_SECRET_FILE": str(secret),
        }
        self.environment_folder = self.with_environment(self.folder / "environment")
        self.project_folder = self.with_project(self.folder / "project")

    def with_environment(self, folder: Path) -> Path:
        """A virtual environment in `.venv`, with LiteLLM in it."""
        folder.mkdir()
        self.uv(folder, "venv", "--python", setting("MCPAUTH_TEST_PYTHON"))
        self.uv(folder, "pip", "sync", "--python", str(folder / ".venv"), str(requirements()))
        return self.configured(folder)

    def with_project(self, folder: Path) -> Path:
        """A pyproject.toml and nothing else: uv makes the environment when it first runs something in it."""
        folder.mkdir()
        pins = re.findall(r"^[\w.-]+==[^ ]+", requirements().read_text(), re.MULTILINE)
        pins = [pin.replace("litellm==", "litellm[proxy]==") if pin.startswith("litellm==") else pin for pin in pins]
        overrides = (source() / "overrides.in").read_text().splitlines()
        overrides = [line for line in overrides if line and not line.startswith("#")]
        text = PROJECT.format(version=python_version(), dependencies=quoted(pins), overrides=quoted(overrides))
        (folder / "pyproject.toml").write_text(text)
        return self.configured(folder)

    def configured(self, folder: Path) -> Path:
        (folder / "config.yaml").write_text(CONFIGURATION.format(url=self.servers["mcp"]))
        return folder

    def environment(self) -> dict[str, str]:
        """Of a user: without the tests' packages, and with uv and mcp-auth on the PATH."""
        paths = [setting(name) for name in ("MCPAUTH_TRY_PROGRAM", "MCPAUTH_ONE_MACHINE_UV", "MCPAUTH_TEST_PYTHON")]
        programs = ":".join(str(Path(path).parent) for path in paths)
        own = {"PATH": f"{programs}:{os.environ['PATH']}", "MASTER_KEY": KEY}
        # UV_PYTHON above all: by it uv would install into that Python itself, and uninstall what is there.
        others = ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT")
        # Without compiled files each start would compile all of LiteLLM.
        others += ("PYTHONDONTWRITEBYTECODE",)
        kept = {name: value for name, value in os.environ.items() if name not in others}
        return kept | own | FROM_ITS_PACKAGE | {"UV_PYTHON_DOWNLOADS": "never"}

    def uv(self, folder: Path, *words: str) -> None:
        command = [setting("MCPAUTH_ONE_MACHINE_UV"), *words, "--quiet"]
        result = subprocess.run(command, cwd=folder, env=self.environment(), capture_output=True, text=True, timeout=LIMIT)
        if result.returncode:
            raise Broken(f"{' '.join(command)}:\n{result.stderr}")

    def start(self, name: str, folder: Path, words: list[str], by: tuple[str, ...] = ("mcp-auth", "exec", "--"), options: tuple[str, ...] = ()) -> Run:
        """LiteLLM by this command in this folder, through mcp-auth or by itself."""
        port, mark = self.ground.port(), secrets.token_hex(8)
        temporary = self.folder / f"{name}.tmp"
        temporary.mkdir()
        command = [*by, *words, "--config", "config.yaml", *options]
        where = {"HOST": "127.0.0.1", "PORT": str(port), "TMPDIR": str(temporary), MARK: mark}
        log = self.folder / f"{name}.log"
        with log.open("w") as output:
            # A session of its own, as that of a terminal. Files of uv stay where they are without mcp-auth too.
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=self.environment() | self.settings | where,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        run = Run(name, process, log, port, mark, temporary, command)
        self.runs.append(run)
        return run

    def end(self) -> None:
        """Whatever is left of a run that failed."""
        for run in self.runs:
            for pid in [*run.processes(), *([run.process.pid] if run.process.poll() is None else [])]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def tools(self, run: Run) -> list[str]:
        command = [setting("MCPAUTH_TEST_PYTHON"), f"{setting('MCPAUTH_TEST_PROGRAMS')}/client.py", "tools"]
        environment = os.environ | {"LITELLM_URL": local(run.port), "LITELLM_API_KEY": KEY}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
        return json.loads(result.stdout or "{}").get("tools", [])

    def code_by(self, run: Run, number: signal.Signals, whole_session: bool) -> int:
        """The exit code after this signal to the process, or, as a terminal does, to all of its session."""
        run.until_ready()
        (os.killpg if whole_session else os.kill)(run.process.pid, number)
        return run.exit_code()

    def both(self, name: str, folder: Path, words: list[str], number: signal.Signals) -> tuple[Run, list[str], int, int]:
        """With mcp-auth and without it: the run with it, the tools there, and both exit codes."""
        with_it = self.start(f"{name}-exec", folder, words)
        without = self.start(f"{name}-bare", folder, words, by=())
        from_terminal = number == signal.SIGINT
        with ThreadPoolExecutor() as pool:
            bare = pool.submit(self.code_by, without, number, from_terminal)
            with_it.until_ready()
            tools = self.tools(with_it)
            code = self.code_by(with_it, number, from_terminal)
            with_it.leaves_nothing()
            return with_it, tools, code, bare.result()

    def run(self) -> str:
        """Returns what is for the document."""
        python = str(self.environment_folder / ".venv/bin/python")
        ways = {
            "`uv run`, in a folder with a virtual environment": (self.environment_folder, ["uv", "run", "litellm"]),
            "`uv run`, in a project with a pyproject.toml": (self.project_folder, ["uv", "run", "litellm"]),
            "`python -m`": (self.environment_folder, [python, "-m", "litellm.proxy.proxy_cli"]),
        }
        self.ground.until_authorization_server(self.servers)
        self.ground.until_mcp_server(self.servers)
        parts = []
        for number, (title, (folder, words)) in enumerate(ways.items(), 1):
            step(number, title)
            name = f"way-{number}"
            run, tools, code, bare = self.both(name, folder, words, signal.SIGTERM)
            found = run.log_text()[-3000:]
            names = sorted(tool.rsplit("-", 1)[-1] for tool in tools)
            check(names == TOOL_NAMES, f"LiteLLM lists {', '.join(tools)}", found)
            check(code == bare, f"SIGTERM to mcp-auth ends LiteLLM, and the exit code is {code}, as without mcp-auth", f"{bare}; {found}")
            check("LiteLLM ended before it was ready" not in found, "no process and no file is left")
            parts.append(self.transcript(title, run, code))
        project = ["uv", "run", "litellm"]
        step(4, "Ctrl-C, a wrong option, and SIGKILL, by uv run in the project")
        run, _, code, bare = self.both("interrupt", self.project_folder, project, signal.SIGINT)
        # Which of these it is LiteLLM decides anew each time, without mcp-auth too: 0 where its server ends as asked, 130
        # where the signal ends it, and 1 with "Aborted!" where click, its command line, catches the interrupt.
        found = f"{code} and {bare}; {run.log_text()[-3000:]}"
        check({code, bare} <= {0, 1, 130}, "Ctrl-C ends LiteLLM, and the exit code is 0, 1 or 130, as without mcp-auth", found)
        check((code == 1) == ("Aborted!" in run.log_text()), "the exit code is what LiteLLM says of its end", found)
        wrong = [
            self.start(f"wrong-{name}", self.project_folder, project, by=by, options=("--no-such-option",))
            for name, by in (("exec", ("mcp-auth", "exec", "--")), ("bare", ()))
        ]
        codes = [each.exit_code() for each in wrong]
        check(codes[0] == codes[1] != 0, f"an option that LiteLLM does not know ends it with {codes[1]}, as without mcp-auth", codes)
        wrong[0].leaves_nothing()
        killed = self.start("killed", self.project_folder, project)
        killed.until_ready()
        killed.process.kill()
        killed.process.wait(LIMIT)
        killed.leaves_nothing()
        check(True, "after SIGKILL to mcp-auth no process and no file is left")
        step(5, "mcp-auth check, by uv run in the project")
        checking = self.start("check", self.project_folder, project, by=("mcp-auth", "check", "--timeout-seconds", str(LIMIT), "--"))
        code = checking.exit_code()
        shown(checking.log_text())
        criteria = [line[0] for line in checking.log_text().splitlines() if line[:1] in ("✓", "✗")]
        check(code == 0 and criteria == ["✓"] * 5, "all five criteria hold", checking.log_text())
        checking.leaves_nothing()
        return "\n\n".join(parts)

    def transcript(self, title: str, run: Run, code: int) -> str:
        """As a terminal shows it, of LiteLLM's own lines the telling ones."""
        lines = [f"$ export {name}={value}" for name, value in self.settings.items()]
        lines.append(f"$ {' '.join(run.words)}")
        for line in run.log_text().splitlines():
            ours = as_text(line)
            if (ours or TELLING.match(line)) and not SLOW.search(line):
                lines.append(ours or line)
        lines += ["$ echo $?", str(code)]
        return f"By {title}; it is ended by SIGTERM:\n\n{printed.block(chr(10).join(lines))}"


def as_text(line: str) -> str:
    """A line of mcp-auth's log, which is JSON here, as it is on a terminal; empty for any other line."""
    try:
        event = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(event, dict) or "target" not in event:
        return ""
    timestamp, level, message, target = (event.pop(name, "") for name in ("timestamp", "level", "message", "target"))
    more = " ".join(f"{name}={json.dumps(value)}" for name, value in event.items())
    return f"{timestamp} {level:>5} {target}: {message} {more}".rstrip()


def source() -> Path:
    return Path(setting("MCPAUTH_ONE_MACHINE_SOURCE"))


def requirements() -> Path:
    return source() / ("requirements-python3.10.txt" if python_version() == "3.10" else "requirements.txt")


def python_version() -> str:
    """Of the Python that this runs by."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def quoted(values: list[str]) -> str:
    return ", ".join(json.dumps(value) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser()
    document = parser.add_mutually_exclusive_group()
    document.add_argument("--check", action="store_true")
    document.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-one-machine."))
    try:
        with processes.Processes(folder) as running:
            starts = Starts(running)
            try:
                text = printed.plain(starts.run(), folder)
            finally:
                starts.end()
    except (Broken, processes.Broken, subprocess.TimeoutExpired) as broken:
        sys.exit(f"\n{RED}✗ {broken}{PLAIN}\nThe logs are in {folder}.")
    shutil.rmtree(folder)
    if arguments.write:
        put_into(printed.DOCUMENT, *MARKS, text)
    elif arguments.check and (difference := printed.first_difference(text, part_of(printed.DOCUMENT, *MARKS), in_order=False)):
        sys.exit(f"\n{RED}✗ {printed.STALE}: write it anew by `make one-machine WRITE=1`{PLAIN}\n{difference}")


if __name__ == "__main__":
    main()
