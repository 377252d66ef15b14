#!/usr/bin/env python3
"""What mcp-auth does for a LiteLLM on one machine, in five steps that each prove what they say: LiteLLM, the OAuth2
server and the MCP server are real. Needs what `make try` prepares; leaves nothing running.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "demo"), str(TESTS / "loopback")]

import printed
import processes
from document import part_of, put_into
from ground import FROM_ITS_PACKAGE, KEY, LITELLM, Ground, local, setting
from promises import ALLOWED, CLIENT, USERS, WAYS, Stand, discovers_tools, follows_a_rotation, is_refused, keeps_users_apart
from terminal import BOLD, DIM, GREEN, LIMIT, PLAIN, RED, Broken, check, note, shown, step, until

# Of tokens, in seconds: short, so that one sees a renewal.
LIFETIME = 12
CONFIGURATION = """\
model_list: [{model}]
general_settings: {{master_key: os.environ/MASTER_KEY}}
mcp_servers:
  tools:
    url: {url}
    transport: http
    allow_all_keys: true
"""
AUTH = """\
    auth:
      cookie_passthrough:
        enabled: true
        cookie_names: [{cookies}]
"""


# In docs/try.md.
TIMES_MARKS = ("<!-- times of make try: begin -->", "<!-- times of make try: end -->")
OUTPUT_MARKS = ("<!-- output of make try: begin -->", "<!-- output of make try: end -->")


class OneMachine(Stand):
    """LiteLLM at `litellm_url`, and what the servers print and keep in `folder`."""

    def __init__(self, folder: Path, servers: dict[str, str], litellm_url: str) -> None:
        self.folder = folder
        self.servers = servers
        self.litellm_url = litellm_url
        self.issuer, self.mcp_url, self.first_secret = servers["issuer"], servers["mcp"], servers["secret"]
        self.secret_file = folder / "client-secret"
        self.stop_file = folder / "stop-load"

    def client(self, *arguments: str) -> dict:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=LIMIT)
        if not out.strip():
            raise Broken(f"the client printed nothing for: {' '.join(arguments)}\n{err}")
        return json.loads(out)

    def start_load(self, *arguments: str) -> subprocess.Popen:
        return self.start("load", *arguments, "--until", str(self.stop_file))

    def end_load(self) -> None:
        self.stop_file.touch()

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [setting("MCPAUTH_TEST_PYTHON"), f"{setting('MCPAUTH_TEST_PROGRAMS')}/client.py", *arguments]
        environment = os.environ | {"LITELLM_URL": self.litellm_url, "LITELLM_API_KEY": KEY}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def oauth(self, method: str, path: str, body: dict | None = None) -> dict:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.servers["admin"] + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return json.loads(answer.read())

    def store_secret(self, secret: str) -> None:
        write_secret(self.secret_file, secret)
        note(f"the new one is in the file {self.secret_file.name}")


def write_secret(path: Path, secret: str) -> None:
    """Whole or not at all, as secret stores write files."""
    new = path.with_suffix(".new")
    new.write_text(secret)
    new.chmod(0o600)
    new.replace(path)


class Try:
    def __init__(self, running: processes.Processes) -> None:
        self.folder = running.folder
        self.running = running
        self.ground = Ground(running)
        # The MCP servers and the model get up while LiteLLM does, which takes longer.
        self.servers = self.ground.start_servers("tools", lifetime=LIFETIME)
        # Of its own, so that what the other LiteLLM asks for is not counted there.
        self.servers_before = self.ground.start_servers("tools-before")
        self.model = json.dumps(self.ground.model(wait=False))
        self.ground.until_authorization_server(self.servers)
        litellm = self.ground.write("litellm", f'#!/bin/sh\nexec {setting("MCPAUTH_TEST_PYTHON")} {LITELLM} "$@"\n')
        litellm.chmod(0o700)

    def configuration(self, name: str, servers: dict[str, str], auth: str = "") -> Path:
        return self.ground.write(name, CONFIGURATION.format(model=self.model, url=servers["mcp"]) + auth)

    def start(self, name: str, *command: str, **environment: str) -> str:
        """Starts LiteLLM by this command and returns its URL, at which it does not answer yet."""
        port = self.ground.port()
        self.running.start(name, [*command, "--host", "127.0.0.1", "--port", str(port)], self.known() | environment)
        return local(port)

    def known(self) -> dict[str, str]:
        """What each LiteLLM here has in its environment."""
        path = f"{self.folder}:{Path(setting('MCPAUTH_TRY_PROGRAM')).parent}:{os.environ['PATH']}"
        return {"PATH": path, "MASTER_KEY": KEY} | FROM_ITS_PACKAGE

    def run(self) -> None:
        cookies = ", ".join(ALLOWED)
        before = self.configuration("before.yaml", self.servers_before)
        config = self.configuration("config.yaml", self.servers, AUTH.format(cookies=cookies))
        settings = self.client(self.servers, "client-secret")
        # Both at once: LiteLLM takes its time to start.
        open_url = self.start("litellm-before", "litellm", "--config", str(before))
        command = ["mcp-auth", "exec", "--", "litellm", "--config", str(config)]
        url = self.start("litellm", *command, **settings)

        step(1, "Before: LiteLLM and an MCP server that wants to know who calls")
        shown(before.read_text().split("\n", 1)[1])
        note(f"{BOLD}${PLAIN} litellm --config before.yaml")
        self.ground.until_mcp_server(self.servers_before)
        self.running.until_up("litellm-before", f"{open_url}/health/readiness")
        is_refused(OneMachine(self.folder, self.servers_before, open_url))

        step(2, "After: LiteLLM is started by mcp-auth, and its tools are there, though nobody has logged in")
        for name, value in settings.items():
            note(f"{BOLD}${PLAIN} export {name}={value}")
        note(f"{BOLD}${PLAIN} mcp-auth exec -- litellm --config config.yaml")
        note(f"{DIM}config.yaml is before.yaml and, in its entry `tools`:{PLAIN}")
        shown(AUTH.format(cookies=cookies))
        self.ground.until_mcp_server(self.servers)
        self.running.until_up("litellm", f"{url}/health/readiness")
        # Its LiteLLM starts while the steps go on. The secret that it has is not rotated.
        check_settings = self.client(self.servers_before, "client-secret-before")
        self.start_check(before, check_settings)
        stand = OneMachine(self.folder, self.servers, url)
        discovers_tools(stand)

        step(3, "Two users call the same tool, three ways")
        keeps_users_apart(stand)
        self.audited()

        step(4, "The client secret is rotated while calls go on")
        follows_a_rotation(stand)

        step(5, "mcp-auth check says beforehand whether a set-up works, by doing it: here that of step 1")
        for name, value in check_settings.items():
            note(f"{BOLD}${PLAIN} export {name}={value}")
        note(f"{BOLD}${PLAIN} mcp-auth check -- litellm --config before.yaml")
        self.checked()

    def client(self, servers: dict[str, str], secret_file: str) -> dict[str, str]:
        """The variables that make LiteLLM a client of this OAuth2 server."""
        write_secret(self.folder / secret_file, servers["secret"])
        return {
            "MCP_OAUTH2_TOKEN_URL": servers["token"],
            "MCP_OAUTH2_CLIENT_ID": CLIENT,
            "MCP_OAUTH2_CLIENT_SECRET_FILE": str(self.folder / secret_file),
        }

    def start_check(self, config: Path, settings: dict[str, str]) -> None:
        command = [setting("MCPAUTH_TRY_PROGRAM"), "check", "--", "litellm", "--config", str(config)]
        self.running.start("check", command, self.known() | settings)

    def checked(self) -> None:
        code = self.running.wait("check")
        printed = self.running.log("check").read_text()
        shown(printed)
        criteria = [line for line in printed.splitlines() if line[:1] in ("✓", "✗")]
        holds = code == 0 and len(criteria) == 5 and all(line.startswith("✓") for line in criteria)
        check(holds, "all five criteria hold", printed)

    def audited(self) -> None:
        """The audit log, which is among what LiteLLM prints, has a line for each of the calls."""
        wanted = len(USERS) * len(WAYS)
        lines = until(f"{wanted} calls are in the audit log", lambda: self.audit_lines(wanted))
        for line in lines[-len(USERS) :]:
            shown(line)
        users = {json.loads(line)["user"]["fingerprint"] for line in lines}
        check(len(users) == len(USERS), f"the audit log has {len(lines)} calls of the tool whoami by {len(users)} users", lines)
        values = [value for cookies in USERS.values() for value in cookies.values() if len(value) > 5]
        told = [value for value in values if any(value in line for line in lines)]
        check(not told, "and no cookie of anybody's", told)

    def audit_lines(self, wanted: int) -> list[str] | None:
        text = self.running.log("litellm").read_text()
        lines = [line for line in text.splitlines() if '"schema":"mcpauth.dev/audit/' in line and '"tools/call"' in line]
        return lines if len(lines) >= wanted else None


def into_document(text: str, arguments: argparse.Namespace) -> None:
    put_into(printed.DOCUMENT, *OUTPUT_MARKS, printed.block(text))
    if not arguments.state:
        return
    new = printed.row(arguments.state, round(time.time() - arguments.started))
    kind = new.split("|")[1]
    rows = part_of(printed.DOCUMENT, *TIMES_MARKS).strip("\n").splitlines()
    rows = [new if row.split("|")[1:2] == [kind] else row for row in rows]
    put_into(printed.DOCUMENT, *TIMES_MARKS, "\n".join(rows))


def compare(text: str) -> None:
    shown = part_of(printed.DOCUMENT, *OUTPUT_MARKS)
    if difference := printed.first_difference(printed.block(text), shown):
        sys.exit(f"\n{RED}✗ {printed.STALE}: write it anew by `make try WRITE=1`{PLAIN}\n{difference}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--started", type=int, default=round(time.time()), help="Unix time")
    parser.add_argument("--state", choices=("", "first", "again"), default="")
    document = parser.add_mutually_exclusive_group()
    document.add_argument("--check", action="store_true")
    document.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-try."))
    kept = printed.keep_output()
    try:
        with processes.Processes(folder) as running:
            Try(running).run()
    except (Broken, processes.Broken, subprocess.TimeoutExpired) as broken:
        sys.exit(f"\n{RED}✗ {broken}{PLAIN}\nThe logs are in {folder}.")
    shutil.rmtree(folder)
    print(f"\n{BOLD}{GREEN}All as promised.{PLAIN} README.md says how to use it for your LiteLLM; `make demo` shows it on Kubernetes.")
    text = printed.plain(kept.text, folder)
    if arguments.write:
        into_document(text, arguments)
    elif arguments.check:
        compare(text)


if __name__ == "__main__":
    main()
