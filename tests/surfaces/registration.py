#!/usr/bin/env python3
"""Whether a server that only the resource names is in LiteLLM what spec.liteLLM says, in the newest version and the
oldest: every setting is held against what LiteLLM's own loader makes of the overlay, and a running LiteLLM offers the
tools that are allowed, under the alias, and no others. The same pods show whom their audit logs name
(audited_users.py). Needs what `make surfaces` prepares.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), os.environ["MCPAUTH_TEST_PROGRAMS"]]

import audited_users
import kubernetes
from ground import FROM_ITS_PACKAGE, KEY, Ground, setting
from litellm_calls import Call, McpSession, browser
from processes import LIMIT, Broken, Processes

# By field of spec.liteLLM: what the resource says, LiteLLM's name for it, and whether 1.80.17 knows it too, as the
# field's description says.
SETTINGS = {
    "description": ("Who am I?", "mcp_info.description", True),
    "alias": ("who", "alias", True),
    "instructions": ("Ask who you are.", "instructions", False),
    "allowedTools": (["whoami"], "allowed_tools", True),
    "allowedParameters": ({"whoami": ["nothing"]}, "allowed_params", True),
    "accessGroups": (["staff", "guests"], "access_groups", True),
    "allowAllKeys": (True, "allow_all_keys", True),
    "availableOnPublicInternet": (False, "available_on_public_internet", False),
    "allowSampling": (True, "allow_sampling", False),
    "allowElicitation": (True, "allow_elicitation", False),
    "timeoutSeconds": (33, "timeout", False),
    "maxConcurrentRequests": (7, "max_concurrent_requests", False),
    "requestsPerMinute": (600, "rpm", False),
}
# Either this or allowedTools can be set.
OTHER = {"disallowedTools": (["slow", "big"], "disallowed_tools", True)}


def stated(settings: dict) -> dict:
    return {field: value for field, (value, _, _) in settings.items()}


def all_fields() -> set[str]:
    """As the CustomResourceDefinition in the cluster has them."""
    crd = json.loads(kubernetes.kubectl("get", "crd", "mcpserverauths.mcpauth.dev", "--output", "json"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return set(spec["properties"]["liteLLM"]["properties"])


def loaded(overlay: Path, packages: str | None) -> dict:
    """The one server, as LiteLLM's loader makes it."""
    python = ["env", f"PYTHONPATH={packages}", setting("MCPAUTH_TEST_INTERPRETER")] if packages else [setting("MCPAUTH_TEST_PYTHON")]
    command = [*python, str(TESTS / "surfaces" / "registered_servers.py"), str(overlay)]
    environment = os.environ | FROM_ITS_PACKAGE
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment)
    if result.returncode:
        raise Broken(f"LiteLLM cannot load {overlay}:\n{result.stderr[-2000:]}")
    (server,) = json.loads(result.stdout.splitlines()[-1])
    return server


def differences(server: dict, settings: dict, is_oldest: bool) -> list[str]:
    faults = []
    for field, (value, path, is_old) in settings.items():
        found = server
        for key in path.split("."):
            found = (found or {}).get(key)
        is_known = is_old or not is_oldest
        if is_known and found != value:
            faults.append(f"spec.liteLLM.{field} is {value!r}, and LiteLLM has {path} = {found!r}")
        if not is_known and found == value:
            faults.append(f"spec.liteLLM.{field} is said to be unknown to this version, which has {path} = {found!r}")
    return faults


async def offered(url: str) -> list[str]:
    os.environ |= {"LITELLM_URL": url, "LITELLM_API_KEY": KEY}
    async with browser() as session:
        client = await McpSession.open(session, Call(), "/mcp/")
        return sorted(await client.tools())


def check(ground: Ground, packages: dict[str, str | None]) -> list[str]:
    settings = SETTINGS | OTHER
    faults = []
    if all_fields() != set(settings):
        faults.append(f"not compared with LiteLLM: {sorted(all_fields() ^ set(settings))}")
    pods = {version: f"registered-{number}" for number, version in enumerate(packages)}
    servers = ground.servers("tools", lifetime=600)
    audit = audited_users.spec(servers["issuer"])
    kubernetes.prepare(servers, list(pods.values()), liteLLM=stated(SETTINGS), audit=audit)
    logs = {version: ground.folder / f"{pod}-audit" for version, pod in pods.items()}
    # LiteLLM's own configuration does not name the server.
    config = {"model_list": [], "general_settings": {"master_key": "os.environ/MASTER_KEY"}}
    urls = {
        version: ground.injected_litellm(pods[version], config, where, {"MCPAUTH_AUDIT_LOG": str(logs[version])})
        for version, where in packages.items()
    }
    for version, where in packages.items():
        is_oldest = where is not None
        server = loaded(ground.overlay(pods[version]), where)
        ground.processes.until_up(pods[version], f"{urls[version]}/health/readiness")
        tools = asyncio.run(offered(urls[version]))
        found = differences(server, SETTINGS, is_oldest)
        # Of a server that is alone the older one says the names without its alias.
        expected = ["whoami"] if is_oldest else ["who-whoami"]
        if tools != expected:
            found.append(f"LiteLLM offers {tools} and not {expected}")
        say(f"LiteLLM {version}: {len(SETTINGS)} settings compared, and it offers {', '.join(tools)}")
        faults += [f"LiteLLM {version}: {fault}" for fault in found]
    faults += audited_users.faults(servers, urls, logs)
    other = ground.write("disallowed.yaml", json.dumps({"mcp_servers": {"tools": {"url": "http://127.0.0.1:9/mcp"} | {
        key: value for value, key, _ in OTHER.values()
    }}}))
    for version, where in packages.items():
        found = differences(loaded(other, where), OTHER, where is not None)
        faults += [f"LiteLLM {version}: {fault}" for fault in found]
    return faults


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    packages = {"newest": None, setting("MCPAUTH_SURFACES_OLD_VERSION"): setting("MCPAUTH_SURFACES_OLD_PACKAGES")}
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-registration."))
    with Processes(folder) as processes:
        try:
            faults = check(Ground(processes), packages)
        except Broken as error:
            say(f"error: {error}")
            return 1
    for fault in faults:
        say(f"must not be: {fault}")
    if faults:
        say(f"the logs are in {folder}")
        return 1
    print("spec.liteLLM arrives in both versions of LiteLLM as docs/litellm-entry.md says, and audit logs name verified")
    print("users alone, with equal fingerprints on both pods")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
