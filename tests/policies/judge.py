"""Whether pods that policies take before injection are taken after it, judged by Kyverno and Gatekeeper themselves; where not, what
the pod or the chart has to state so that they are. The pods are those of `operator/tests/injection/testdata`, each as it is, and
hardened in two ways so that it passes what it can pass. docs/tasks/openshift.md has the policies as a table.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from document import part_of, put_into
from preview import LOADER, NAMESPACE, as_documents, inject
from verdicts import Verdicts

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
PODS = REPOSITORY / "operator/tests/injection/testdata"
DOCUMENT = REPOSITORY / "docs/tasks/openshift.md"
BEGIN, END = "<!-- what follows is written by tests/policies/judge.py -->", "<!-- what was written ends here, by tests/policies/judge.py -->"
DIGEST = "sha256:" + "0" * 64
# Of a pod as it is, in its name.
PLAIN = "plain"
# The most that any engine takes for all pods.
LIMIT = 1800

RESOURCES, CONTEXT, HEADERS = (f"mcpauth.dev/{name}" for name in ("resources", "security-context", "otlp-headers-secret"))
# By policy, what has to be stated for it, as the document says it.
STATED = {
    "requests-and-memory-limit": f"nothing; in a pod with resources of its own (`spec.resources`), all of them in `{RESOURCES}`",
    "seccomp-in-each-container": f'nothing; where the pod states a profile besides, `{CONTEXT}: {{"seccompProfile": {{"type": "RuntimeDefault"}}}}`',
    "no-secrets-in-variables": f"nothing; headers for an OpenTelemetry collector cannot be had then (`{HEADERS}`, `sidecar.otlp.headersSecret` of the chart)",
    "cpu-limit": f'`{RESOURCES}: {{"limits": {{"cpu": "100m"}}}}`, or `sidecar.resources` of the chart',
    "memory-limit-equals-request": f'`{RESOURCES}: {{"requests": {{"memory": "256Mi"}}}}`, or `sidecar.resources` of the chart',
    "user-and-group-in-each-container": f'`{CONTEXT}: {{"runAsUser": 1001, "runAsGroup": 1001}}`, or `sidecar.securityContext` of the chart',
    "apparmor-in-each-container": f'`{CONTEXT}: {{"appArmorProfile": {{"type": "RuntimeDefault"}}}}`, or `sidecar.securityContext` of the chart',
    "image-by-digest": "`sidecar.image.digest` of the chart",
    "pull-policy-always": "`sidecar.image.pullPolicy: Always` of the chart",
    "allowed-registries": "`sidecar.image.repository` of the chart, in a registry that is allowed",
}
ANNOTATIONS = {
    RESOURCES: {"limits": {"cpu": "100m", "memory": "256Mi"}, "requests": {"cpu": "20m", "memory": "256Mi"}},
    CONTEXT: {
        "runAsUser": 1001,
        "runAsGroup": 1001,
        "appArmorProfile": {"type": "RuntimeDefault"},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
VALUES = {"sidecar": {"image": {"repository": "registry.example.com/mcp-auth-sidecar", "digest": DIGEST, "pullPolicy": "Always"}}}
# What no sidecar meets, and what to do.
UNMET = {
    "liveness-of-native-sidecars": "leave the container `mcpauth-sidecar` out of the policy: a restart of it costs LiteLLM its own probes",
}
# Policies that refuse no plain pod, each with the reason. Without one, a policy that matches nothing would pass.
NEVER_REFUSING: dict[str, str] = {}


@dataclass(frozen=True)
class Engine:
    """A policy engine: its policies with what each wants, and what it says of pods, as the policies that refuse each."""

    name: str
    program: str
    setting: str
    policies: Callable[[], dict[str, str]]
    refusals: Callable[[Path, Path], dict[str, set[str]]]


def documents(folder: str) -> list[dict]:
    return [each for path in sorted((FOLDER / folder).glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def kyverno_policies() -> dict[str, str]:
    message = lambda rule: rule["validate"].get("message", "PodSecurity `restricted`, by the engine's own implementation")
    return {each["metadata"]["name"]: message(each["spec"]["rules"][0]) for each in documents("kyverno")}


def kyverno_refusals(program: Path, pods: Path) -> dict[str, set[str]]:
    command = [str(program), "apply", str(FOLDER / "kyverno"), "--resource", str(pods), "--policy-report"]
    said = run(command, (0, 1))
    refusals: dict[str, set[str]] = {}
    start = said.find("apiVersion:")
    if start < 0:
        sys.exit(f"error: no report in what Kyverno said: {said[:2000]}")
    for report in yaml.load_all(said[start:], Loader=LOADER):
        for result in (report or {}).get("results") or []:
            if result["result"] == "error":
                sys.exit(f"error: Kyverno cannot apply {result['policy']}: {result.get('message')}")
            if result["result"] == "fail":
                for resource in result.get("resources") or [report["scope"]]:
                    refusals.setdefault(resource["name"], set()).add(result["policy"])
    return refusals


def gatekeeper_policies() -> dict[str, str]:
    found = {}
    for path in sorted((FOLDER / "gatekeeper").glob("*.yaml")):
        for text in path.read_text().split("\n---\n# "):
            comment, _, rest = text.removeprefix("# ").partition("\n")
            constraint = list(yaml.safe_load_all(rest))[1]
            found[constraint["metadata"]["name"]] = comment[0].lower() + comment[1:].rstrip(".")
    return found


def gatekeeper_refusals(program: Path, pods: Path) -> dict[str, set[str]]:
    command = [str(program), "test", "--filename", str(FOLDER / "gatekeeper"), "--filename", str(pods), "--output", "json"]
    refusals: dict[str, set[str]] = {}
    for violation in json.loads(run(command, (0, 1)) or "[]") or []:
        name = violation["violatingObject"]["metadata"]["name"]
        refusals.setdefault(name, set()).add(violation["constraint"]["metadata"]["name"])
    return refusals


ENGINES = [
    Engine("Kyverno", "kyverno", "MCPAUTH_TEST_KYVERNO", kyverno_policies, kyverno_refusals),
    Engine("Gatekeeper", "gator", "MCPAUTH_TEST_GATOR", gatekeeper_policies, gatekeeper_refusals),
]


def run(command: list[str], codes: tuple[int, ...]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if answer.returncode not in codes:
        sys.exit(f"error: {' '.join(command)} ended with {answer.returncode}: {answer.stdout[-2000:]}{answer.stderr[-2000:]}")
    return answer.stdout


def program_of(engine: Engine) -> tuple[Path | None, str]:
    """The engine's command line; or nothing, and why there is none."""
    if stated := os.environ.get(engine.setting):
        return Path(stated), f"of {engine.setting}"
    answer = subprocess.run([str(FOLDER / "engine"), engine.program], stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        return None, f"it cannot be built from its Go module (see above); set {engine.setting} to its program"
    path = Path(answer.stdout.strip())
    return path, path.parent.name.removeprefix(f"{engine.program}-")


def containers(spec: dict) -> list[dict]:
    return [*spec.get("containers", []), *(spec.get("initContainers") or [])]


def corpus() -> list[dict]:
    """Each pod of the corpus as it is, and hardened in its containers and by the pod."""
    pods = []
    for number, path in enumerate(sorted(PODS.glob("*.yaml"))):
        found = list(yaml.load_all(path.read_text(), Loader=LOADER))[-1]
        for variant, change in {PLAIN: lambda pod: None, "hardened": harden, "by-pod": harden_by_pod}.items():
            pod = {"apiVersion": "v1", "kind": "Pod"} | copy.deepcopy(found)
            pod.setdefault("metadata", {}).pop("generateName", None)
            pod["metadata"] |= {"name": f"p{number}-{variant}", "namespace": NAMESPACE}
            # What a pod states here is what this states.
            annotations = pod["metadata"].get("annotations") or {}
            pod["metadata"]["annotations"] = {key: text for key, text in annotations.items() if key not in ANNOTATIONS}
            change(pod)
            pods.append(pod)
    return pods


def harden(pod: dict) -> None:
    spec = pod["spec"]
    for container in containers(spec):
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 1001,
            "runAsGroup": 1001,
            "seccompProfile": {"type": "RuntimeDefault"},
            "appArmorProfile": {"type": "RuntimeDefault"},
        }
        size = {"cpu": "1", "memory": "1Gi"}
        container["resources"] = {"requests": dict(size), "limits": dict(size)}
        container["imagePullPolicy"] = "Always"
        image = container.get("image", "litellm:v1")
        host, _, path = image.rpartition("/") if "." not in image.split("/")[0] else ("ghcr.io", "", image.partition("/")[2])
        image = f"ghcr.io/{path}" if host == "ghcr.io" else f"registry.example.com/{host}/{path}" if host else f"registry.example.com/{path}"
        container["image"] = image if "@" in image else f"{image}@{DIGEST}"
    for container in spec.get("containers", []):
        get = {"httpGet": {"path": "/health/liveliness", "port": 4000}}
        for probe in ("livenessProbe", "readinessProbe"):
            container.setdefault(probe, get)
    for volume in spec.get("volumes") or []:
        if "emptyDir" in volume:
            volume["emptyDir"] = (volume["emptyDir"] or {}) | {"sizeLimit": "64Mi"}
    spec["automountServiceAccountToken"] = False


def harden_by_pod(pod: dict) -> None:
    harden(pod)
    for container in containers(pod["spec"]):
        for field in ("runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile", "appArmorProfile"):
            del container["securityContext"][field]
    pod["spec"]["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"}}


def stating(pod: dict) -> dict:
    annotations = pod["metadata"]["annotations"] | {name: json.dumps(value) for name, value in ANNOTATIONS.items()}
    annotations.pop(HEADERS, None)
    return pod | {"metadata": pod["metadata"] | {"annotations": annotations}}


def judge(engine: Engine, program: Path, stages: dict[str, Path]) -> tuple[int, list[str]]:
    """How many times a pod passed a policy before and after, and what is not as the document says."""
    before, after, stated = (engine.refusals(program, path) for path in stages.values())
    names = [pod["metadata"]["name"] for pod in yaml.load_all(stages["before"].read_text(), Loader=LOADER)]
    passed, wrong = 0, []
    for policy in engine.policies():
        takes = [name for name in names if policy not in before.get(name, set())]
        refused = [name for name in takes if policy in after.get(name, set())]
        still = [name for name in takes if policy in stated.get(name, set())]
        passed += len(takes) - len(still)
        if not takes:
            wrong.append(f"{policy}: no pod passes it before")
        refuses_plain = any(policy in before.get(name, set()) for name in names if name.endswith(PLAIN))
        if refuses_plain == (policy in NEVER_REFUSING):
            wrong.append(f"{policy}: it refuses {'a' if refuses_plain else 'no'} plain pod before")
        if policy in UNMET:
            wrong += [] if refused else [f"{policy}: it is met, and the document says that it is not"]
            continue
        if still:
            wrong.append(f"{policy}: {len(still)} pods pass before and not after, whatever is stated: {still[:5]}")
        needs = STATED.get(policy)
        if refused and not needs:
            wrong.append(f"{policy}: {len(refused)} pods pass before and not after: {refused[:5]}")
        if needs and not refused:
            wrong.append(f"{policy}: it is met without what the document says is to be stated")
    return passed, wrong


def table() -> str:
    wants: dict[str, tuple[str, list[str]]] = {}
    for engine in ENGINES:
        for policy, want in engine.policies().items():
            wants.setdefault(policy, (want, []))[1].append(engine.name)
    rows = ["| policy | what it wants | engines | what to state |", "|---|---|---|---|"]
    for policy, (want, engines) in sorted(wants.items()):
        to_do = STATED.get(policy) or UNMET.get(policy) or "nothing"
        rows.append(f"| `{policy}` | {want} | {', '.join(engines)} | {to_do} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operator")
    parser.add_argument("--write", action="store_true", help="write the table into docs/tasks/openshift.md")
    options = parser.parse_args()
    if options.write:
        put_into(DOCUMENT, BEGIN, END, table())
    elif part_of(DOCUMENT, BEGIN, END).strip() != table():
        print(f"error: the table in {DOCUMENT} is not:\n{table()}\nrun tests/policies/run --write", file=sys.stderr)
        return 1
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory(prefix="mcp-auth-policies.") as folder:
        stages, count = staged(options.operator, Path(folder))
        for engine in ENGINES:
            program, version_or_why_not = program_of(engine)
            if program is None:
                verdicts.skip(engine.name, version_or_why_not)
                continue
            passed, wrong = judge(engine, program, stages)
            times = f"{passed} times a pod that a policy takes before is taken after"
            verdicts.judge(f"{engine.name} {version_or_why_not}: {len(engine.policies())} policies, {count} pods, {times}", wrong)
    return verdicts.exit_code()


def staged(operator: str, folder: Path) -> tuple[dict[str, Path], int]:
    """Files of the pods before, after, and after with what may have to be stated, of those that are injected."""
    pods = corpus()
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    after = inject(operator, pods)
    stated = inject(operator, [stating(pod) for pod in pods], values)
    is_injected = lambda pod, stage: "Injected" in stage[pod["metadata"]["name"]][0]
    taken = [pod for pod in pods if is_injected(pod, after) and is_injected(pod, stated)]
    of = lambda stage: [stage[pod["metadata"]["name"]][1] for pod in taken]
    stages = {}
    for name, found in {"before": taken, "after": of(after), "stated": of(stated)}.items():
        stages[name] = folder / f"{name}.yaml"
        stages[name].write_text(as_documents(found))
    return stages, len(taken)


if __name__ == "__main__":
    sys.exit(main())
