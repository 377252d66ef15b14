"""What stands around the five steps: the demo's manifests, its programs inside the cluster, and their removal."""

import fcntl
import json
import os
import subprocess
from pathlib import Path

from promises import Stand
from terminal import LIMIT, Broken, note, run

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFESTS = Path(__file__).resolve().parent / "manifests"
NAMESPACE = "demo"
OPERATOR_NAMESPACE = "mcp-auth-system"
RELEASE = "mcp-auth"
BEFORE = ["namespace", "oauth", "tools", "llm", "litellm", "client"]


def setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise Broken(f"{name} is not set: run the demo by `make demo`, which builds the images and names them")
    return value


def one_at_a_time() -> None:
    """Refuses to begin while another demo is on the same cluster. The lock ends with this process."""
    global lock
    lock = open(f"{setting('MCPAUTH_TEST_CACHE')}/demo-{setting('MCPAUTH_TEST_CLUSTER')}.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Broken("another demo is running on this cluster: wait for it, or set MCPAUTH_TEST_CLUSTER") from None


def manifest(name: str) -> str:
    text = (MANIFESTS / f"{name}.yaml").read_text()
    for placeholder in ("PYTHON_IMAGE", "OAUTH_IMAGE"):
        text = text.replace(placeholder, setting(f"MCPAUTH_TEST_{placeholder}"))
    return text


def kubectl(*arguments: str, **how) -> str:
    return run("kubectl", "--namespace", NAMESPACE, *arguments, **how)


class Cluster(Stand):
    """What the manifests put into the cluster."""

    issuer = "http://oauth.demo.svc"
    mcp_url = "http://tools.demo.svc/mcp"
    first_secret = "the-first-secret-of-litellm-b3f1c0"
    stop_file = "/tmp/stop"

    def client(self, *arguments: str) -> dict:
        out = kubectl("exec", "deploy/client", "--", "python3", "/programs/client.py", *arguments, may_fail=True)
        if not out.strip():
            raise Broken(f"the client printed nothing for: {' '.join(arguments)}")
        return json.loads(out)

    def start_load(self, *arguments: str) -> subprocess.Popen:
        kubectl("exec", "deploy/client", "--", "rm", "-f", self.stop_file)
        command = ["kubectl", "--namespace", NAMESPACE, "exec", "deploy/client", "--"]
        command += ["python3", "/programs/client.py", "load", *arguments, "--until", self.stop_file]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end_load(self) -> None:
        kubectl("exec", "deploy/client", "--", "touch", self.stop_file)

    def oauth(self, method: str, path: str, body: dict | None = None) -> dict:
        arguments = [method, path] + ([json.dumps(body)] if body is not None else [])
        return json.loads(kubectl("exec", "deploy/oauth", "--", "./node", "admin.mjs", *arguments))

    def store_secret(self, secret: str) -> None:
        patch = json.dumps({"stringData": {"client-secret": secret}})
        kubectl("patch", "secret/tools-oauth", "--patch", patch)
        note("kubectl patch secret/tools-oauth: the new one")


def remove() -> None:
    quietly = {"may_fail": True}
    run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", **quietly)
    run("helm", "uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait", **quietly)
    run("kubectl", "delete", "namespace", OPERATOR_NAMESPACE, "--ignore-not-found", "--wait", **quietly)
    # The chart keeps the definition when it is uninstalled, and with it all resources of a cluster that is not a demo.
    run("kubectl", "delete", "crd", "mcpserverauths.mcpauth.dev", "--ignore-not-found", "--wait", **quietly)


def install_operator() -> None:
    images = []
    for name in ("operator", "sidecar"):
        repository, tag = setting(f"MCPAUTH_TEST_{name.upper()}_IMAGE").rsplit(":", 1)
        images += ["--set", f"{name}.image.repository={repository},{name}.image.tag={tag}"]
    chart = str(REPOSITORY / "charts" / "mcp-auth")
    where = ["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", f"{LIMIT}s"]
    run("helm", "install", RELEASE, chart, *where, *images)
