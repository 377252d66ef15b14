"""Injects pods as other injectors have written them, and looks whether what docs/tasks/service-mesh.md says holds of the result.

usage: recorded.py OPERATOR
"""

import copy
import json
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass

import yaml
from preview import inject
from verdicts import Verdicts

OURS = "mcpauth-sidecar"
PROXIES = {"istio-proxy", "linkerd-proxy", "kuma-sidecar"}
VALIDATORS = {"istio-validation", "linkerd-network-validator", "kuma-validation"}
REDIRECTORS = {"istio-init", "linkerd-init", "kuma-init"} | VALIDATORS
OF_A_MESH = PROXIES | REDIRECTORS | {"linkerd-debug", "enable-core-dump"}
PROBES = ("startupProbe", "readinessProbe")


@dataclass(frozen=True)
class Mesh:
    """Where a mesh keeps what its injector writes."""

    name: str
    module: str
    version: str
    folder: str
    pattern: str
    setting: str


MESHES = [
    Mesh(
        "Istio",
        "istio.io/istio",
        "v0.0.0-20260827124520-eed52ebb66ad",
        "pkg/kube/inject/testdata",
        "*/*.injected",
        "MCPAUTH_TEST_ISTIO",
    ),
    Mesh(
        "Linkerd",
        "github.com/linkerd/linkerd2",
        "eadc1acf79ad2e766afbdceadb77f1594296fd77",  # version-2.20
        "cli/cmd/testdata",
        "inject_*.golden.yml",
        "MCPAUTH_TEST_LINKERD",
    ),
    Mesh(
        "Kuma",
        "github.com/kumahq/kuma/v2",
        "v2.14.3",
        "pkg/plugins/runtime/k8s/webhooks/injector/testdata",
        "inject.*.golden.yaml",
        "MCPAUTH_TEST_KUMA",
    ),
]
# Fewer pods of a mesh than this: its tests keep them elsewhere by now.
ENOUGH = 20


def source(mesh):
    """The folder with the source of the mesh and its version; or nothing, and why there is none."""
    if folder := os.environ.get(mesh.setting):
        return pathlib.Path(folder), f"of {mesh.setting}, whose version is not looked at"
    command = ["go", "mod", "download", "-json", f"{mesh.module}@{mesh.version}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        module = json.loads(answer.stdout or "{}")
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return None, str(error)
    if "Dir" in module:
        return pathlib.Path(module["Dir"]), mesh.version
    return None, module.get("Error", answer.stderr).strip().splitlines()[-1]


def templates(document):
    """The pods of a document, as metadata and spec."""
    match document:
        case {"kind": "List", "items": items}:
            for item in items:
                yield from templates(item)
        case {"kind": "Pod", "spec": spec}:
            yield document.get("metadata") or {}, spec
        case {"kind": "Deployment" | "StatefulSet" | "DaemonSet", "spec": {"template": {"spec": spec} as template}}:
            yield template.get("metadata") or {}, spec


def with_litellm(metadata, spec, name):
    """The pod with LiteLLM in place of its first application; nothing where it has none."""
    spec = copy.deepcopy(spec)
    applications = [container for container in spec.get("containers", []) if container["name"] not in OF_A_MESH]
    if not applications or spec.get("hostNetwork"):
        return None
    litellm, *others = applications
    mounts = litellm.get("volumeMounts") or []
    litellm |= {
        "image": "ghcr.io/berriai/litellm:v1.85.1",
        "command": ["litellm"],
        "args": ["--config", "/etc/litellm/config.yaml"],
        "ports": [{"name": "http", "containerPort": 4000}],
        "volumeMounts": [*mounts, {"name": "litellm", "mountPath": "/etc/litellm/config.yaml", "subPath": "config.yaml"}],
    }
    for other in others:
        other.pop("ports", None)
    spec["volumes"] = [*(spec.get("volumes") or []), {"name": "litellm", "configMap": {"name": "litellm"}}]
    labels = {**(metadata.get("labels") or {}), "app.kubernetes.io/name": "litellm"}
    metadata = {"name": name, "namespace": "llm", "labels": labels, "annotations": metadata.get("annotations") or {}}
    return litellm["name"], {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def faults(litellm, before, said, pod):
    """What does not hold of an injected pod."""
    spec = pod["spec"]
    starting = spec.get("initContainers", [])
    names = [container["name"] for container in starting]
    if "Injected" not in said or names.count(OURS) != 1:
        yield f"not injected: {sorted(said)}"
        return
    at = names.index(OURS)
    native = {c["name"] for c in starting if c["name"] in PROXIES and c.get("restartPolicy") == "Always"}
    classic = {c["name"] for c in spec["containers"] if c["name"] in PROXIES} - native
    leading = REDIRECTORS.intersection(names)
    sidecar = starting[at]
    if native or classic or leading:
        for probe in PROBES:
            if "exec" not in sidecar[probe]:
                yield f"{probe} of the sidecar goes through the proxy: {sidecar[probe]}"
    if any(names.index(name) > at for name in native):
        yield f"the sidecar starts before a native proxy: {names}"
    if classic and any(names.index(name) < at for name in leading):
        yield f"the sidecar starts behind what leads its connections to a proxy that does not run: {names}"
    if bool(classic and VALIDATORS & leading) != ("MeshStartsLater" in said):
        yield f"MeshStartsLater: {sorted(said)}, {names}"
    for kind in ("containers", "initContainers"):
        others = [container for container in spec.get(kind, []) if container["name"] not in (litellm, OURS)]
        if others != [c for c in before["spec"].get(kind, []) if c["name"] != litellm]:
            yield f"another of the {kind} has changed"
    ours = next(container for container in spec["containers"] if container["name"] == litellm)
    own = next(container for container in before["spec"]["containers"] if container["name"] == litellm)
    for field in ("livenessProbe", "readinessProbe", "startupProbe", "ports", "securityContext", "resources"):
        if ours.get(field) != own.get(field):
            yield f"{field} of LiteLLM has changed"
    if own.get("lifecycle", {}).get("preStop") not in (None, ours["lifecycle"]["preStop"]):
        yield "the preStop of LiteLLM has changed"
    lost = before["metadata"]["annotations"].items() - pod["metadata"]["annotations"].items()
    if lost:
        yield f"annotations are lost: {lost}"


def look_at(mesh, folder, operator):
    """How many pods of the mesh were injected, and what was wrong with them."""
    pods, containers, sources = [], {}, {}
    for path in sorted((folder / mesh.folder).glob(mesh.pattern)):
        for document in yaml.safe_load_all(path.read_text()):
            for metadata, spec in templates(document):
                name = f"pod-{len(pods)}"
                if made := with_litellm(metadata, spec, name):
                    containers[name], pod = made
                    sources[name] = path.name
                    pods.append(pod)
    if len(pods) < ENOUGH:
        return len(pods), [f"{len(pods)} pods in {mesh.folder}/{mesh.pattern}, expected at least {ENOUGH}"]
    once = inject(operator, pods)
    wrong = []
    for pod in pods:
        name = pod["metadata"]["name"]
        for fault in faults(containers[name], pod, *once[name]):
            wrong.append(f"{sources[name]}: {fault}")
    again = inject(operator, [pod for _, pod in once.values()])
    changed = [name for name, (_, pod) in once.items() if again[name][1] != pod]
    wrong += [f"{sources[name]}: the second look changes it again" for name in changed]
    return len(pods), wrong


def main():
    operator = sys.argv[1]
    verdicts = Verdicts()
    for mesh in MESHES:
        folder, version_or_why_not = source(mesh)
        if folder is None:
            verdicts.skip(f"{mesh.name} {mesh.version}", f"{version_or_why_not} (set {mesh.setting} to a folder with its source)")
            continue
        count, wrong = look_at(mesh, folder, operator)
        verdicts.judge(f"{mesh.name} {version_or_why_not}: {count} pods", wrong)
    sys.exit(verdicts.exit_code())


if __name__ == "__main__":
    main()
