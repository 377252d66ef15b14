"""What the operator is told, and what a sidecar is given in its pod: no kubelet runs here, so this does its part."""

import base64
import json
import subprocess

from processes import LIMIT, Broken

NAMESPACE = "loopback"
CLIENT = "litellm"


def kubectl(*arguments: str, text: str | None = None) -> str:
    command = ["kubectl", *arguments]
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=LIMIT)
    if result.returncode:
        raise Broken(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def apply(*objects: dict) -> None:
    kubectl("apply", "--filename", "-", text="\n---\n".join(json.dumps(each) for each in objects))


def of_kind(version: str, kind: str, name: str, **rest) -> dict:
    where = {} if kind == "Namespace" else {"namespace": NAMESPACE}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name} | where | rest.pop("metadata", {})} | rest


def resource(mcp_url: str, token_url: str, **passthrough) -> dict:
    secret = {"name": "tools-oauth", "key": "client-secret"}
    oauth2 = {
        "tokenUrl": token_url,
        "allowInsecureHttp": True,
        "clientId": CLIENT,
        "clientAuthentication": {"method": "ClientSecretBasic", "clientSecretRef": secret},
    }
    server = {"name": "tools", "url": mcp_url, "allowInsecureHttp": True}
    return of_kind("mcpauth.dev/v1alpha1", "McpServerAuth", "tools", spec={"server": server, "oauth2": oauth2} | passthrough)


def prepare(servers: dict[str, str], pods: list[str], **passthrough) -> None:
    """The namespace with all in it. `passthrough` goes into the resource's spec."""
    apply(of_kind("v1", "Namespace", NAMESPACE))
    metadata = {
        "labels": {"app.kubernetes.io/name": "litellm"},
        "annotations": {"mcpauth.dev/injected": "by hand"},
    }
    containers = [{"name": "litellm", "image": "litellm"}]
    spec = {"serviceAccountName": "default", "containers": containers}
    apply(
        of_kind("v1", "ServiceAccount", "default"),
        of_kind("v1", "Secret", "tools-oauth", stringData={"client-secret": servers["secret"]}),
        resource(servers["mcp"], servers["token"], **passthrough),
        *(of_kind("v1", "Pod", name, metadata=metadata, spec=spec) for name in pods),
    )
    condition = ["--for=condition=TokenIssued", f"--timeout={LIMIT}s"]
    kubectl("wait", "msa/tools", "--namespace", NAMESPACE, *condition)


def uid(pod: str) -> str:
    return kubectl("get", "pod", pod, "--namespace", NAMESPACE, "--output", "jsonpath={.metadata.uid}")


def identity(pod: str) -> str:
    """The token that the operator knows the pod by."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--bound-object-uid={uid(pod)}"]
    how = ["--namespace", NAMESPACE, "--audience=mcp-auth-operator", "--duration=2h", *bound]
    return kubectl("create", "token", "default", *how).strip()


def authority(namespace: str) -> str:
    """The certificate authority of the operator, in PEM."""
    found = kubectl("get", "secret", "mcp-auth-operator-tls", "--namespace", namespace, "--output", "json")
    return base64.b64decode(json.loads(found)["data"]["ca.crt"]).decode()
