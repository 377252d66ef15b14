#!/usr/bin/env python3
"""Whether LiteLLM, the newest and the oldest that is supported, reads through the sidecar's mirror what it reads of its own
configuration file: relative includes, nested ones, ones with `..`, and Python modules beside the file, as it is where no wrapper
can lie beside the configuration (a PersistentVolumeClaim), and under mcp-auth exec. LiteLLM's own loader reads both. And whether it
ends, rather than start without a configuration, where what the sidecar writes is not there. Needs what `make surfaces` prepares.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "loopback"), os.environ["MCPAUTH_TEST_PROGRAMS"]]

import kubernetes
from ground import FROM_ITS_PACKAGE, Ground, setting
from processes import LIMIT, Broken, Processes

READER = TESTS / "surfaces" / "config_reader.py"
PODS = ["includes", "unusable"]


def model(name: str) -> dict:
    return {"model_list": [{"model_name": name, "litellm_params": {"model": f"openai/{name}"}}]}


def write_configuration(folder: Path, servers: object) -> Path:
    """The root file, in a folder of its own beside one that it shares."""
    files = {
        "app/config.yaml": {
            "include": ["servers.yaml", "parts/nested.yaml", "parts/../second.yaml", "../shared/more.yaml", f"{folder}/absolute.yaml"],
            "litellm_settings": {"callbacks": ["hooks.said", "package.inner.said"]},
            **model("root"),
        },
        "app/servers.yaml": {"mcp_servers": servers},
        # Versions before 1.109.1 look beside the root file alone, later ones there after they looked beside this one.
        "app/parts/nested.yaml": {"include": ["beside-root.yaml"], **model("nested")},
        "app/beside-root.yaml": model("beside-root"),
        "app/second.yaml": model("second"),
        "shared/more.yaml": {"include": ["../shared/last.yaml"], **model("more")},
        "shared/last.yaml": {"general_settings": {"master_key": "os.environ/MASTER_KEY"}, **model("last")},
        "absolute.yaml": model("absolute"),
    }
    modules = {
        "app/hooks.py": "from pathlib import Path\nsaid = (Path(__file__).parent / 'data.txt').read_text()\n",
        "app/data.txt": "read beside the module",
        "app/package/inner.py": "said = 'from a folder'\n",
    }
    texts = {name: json.dumps(content) for name, content in files.items()} | modules
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "app/config.yaml"


def read(command: list[str], environment: dict[str, str]) -> dict:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | FROM_ITS_PACKAGE | environment
    )
    if result.returncode:
        return {"failed": result.stderr.strip().splitlines()[-1:]}
    return json.loads(result.stdout.splitlines()[-1])


def differences(own: dict, through: dict, is_protected: bool) -> list[str]:
    """Between what LiteLLM reads of its own file and what it reads by the mirror: the address of the server alone."""
    if "failed" in own or "failed" in through:
        return [f"by itself {own.get('failed', 'it is read')}, through the mirror {through.get('failed', 'it is read')}"]
    faults = []
    if is_protected:
        own_servers, servers = own["config"].pop("mcp_servers"), through["config"].pop("mcp_servers")
        if list(servers) != list(own_servers) or urlsplit(servers["tools"]["url"]).hostname != "127.0.0.1":
            faults.append(f"the servers are {list(servers)}")
        if servers["tools"]["url"] == own_servers["tools"]["url"]:
            faults.append("the server is called past the sidecar")
    if own != through:
        faults.append(f"by itself {own}\n      through the mirror {through}")
    return faults


def started_without_files(python: list[str], folder: Path, port: int) -> list[str]:
    """What LiteLLM starts without: it would be an open gateway where that is the file that holds the master key."""
    missing = folder / "not-there.yaml"
    wrapper = folder / "wrapper-of-nothing.yaml"
    wrapper.write_text(json.dumps({"include": [str(missing)], **model("root")}))
    ways = {"an included file": ({"CONFIG_FILE_PATH": str(wrapper)}, []), "the file of --config": ({}, ["--config", str(missing)])}
    started = []
    for what, (environment, options) in ways.items():
        program = "from litellm import run_server; run_server()"
        command = [*python, "-c", program, "--host", "127.0.0.1", "--port", str(port), *options]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | FROM_ITS_PACKAGE | environment
            )
        except subprocess.TimeoutExpired:
            started.append(what)
            continue
        if not result.returncode or missing.name not in result.stdout + result.stderr:
            started.append(what)
    return started


def check(ground: Ground, packages: dict[str, str | None]) -> list[str]:
    servers = ground.servers("includes", lifetime=600)
    kubernetes.prepare(servers, PODS)
    entry = {"url": servers["mcp"], "transport": "http"}
    auth = {"auth": {"cookie_passthrough": {"enabled": True, "cookie_names": ["session_id"]}}}
    # Of the second one the sidecar can make nothing, and LiteLLM must read it all the same.
    originals = {
        "includes": write_configuration(ground.folder / "includes", {"tools": entry}),
        "unusable": write_configuration(ground.folder / "unusable", ["tools"]),
    }
    mirrors = {pod: ground.folder / f"{pod}-mirror" for pod in PODS}
    for pod, original in originals.items():
        ground.sidecar(pod, ground.port(), original, {"MCPAUTH_CONFIG_MIRROR": str(mirrors[pod])})
    on_one_machine = write_configuration(ground.folder / "one-machine", {"tools": entry | auth})
    secret = ground.write("includes-secret", servers["secret"])
    settings = {
        "MCP_OAUTH2_TOKEN_URL": servers["token"],
        "MCP_OAUTH2_CLIENT_ID": kubernetes.CLIENT,
        "MCP_OAUTH2_CLIENT_SECRET_FILE": str(secret),
        "CONFIG_FILE_PATH": str(on_one_machine),
        "PORT": str(ground.port()),
    }
    faults = []
    for version, where in packages.items():
        python = ["env", f"PYTHONPATH={where}", setting("MCPAUTH_TEST_INTERPRETER")] if where else [setting("MCPAUTH_TEST_PYTHON")]
        reader = [*python, str(READER)]
        for pod, original in originals.items():
            own = read([*reader, str(original)], {})
            through = read([*reader, f"{mirrors[pod]}{original}"], {})
            found = differences(own, through, is_protected=pod == "includes")
            say(f"LiteLLM {version}, {pod}: {len(found)} differences")
            faults += [f"LiteLLM {version}, {pod}: {fault}" for fault in found]
        started = started_without_files(python, ground.folder, ground.port())
        say(f"LiteLLM {version}, without the sidecar's files: {'starts' if started else 'does not start'}")
        faults += [f"LiteLLM {version} starts without {what}" for what in started]
        own = read(reader, settings)
        through = read([setting("MCPAUTH_SURFACES_LOCAL"), "exec", "--", *reader], settings)
        found = differences(own, through, is_protected=True)
        say(f"LiteLLM {version}, mcp-auth exec: {len(found)} differences")
        faults += [f"LiteLLM {version}, mcp-auth exec: {fault}" for fault in found]
    return faults


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="mcp-auth-includes."))
    packages = {"newest": None, setting("MCPAUTH_SURFACES_OLD_VERSION"): setting("MCPAUTH_SURFACES_OLD_PACKAGES")}
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
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
