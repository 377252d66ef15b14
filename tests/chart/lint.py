"""Runs kubeconform over every good set of values in `cases`, kube-score and checkov over the two that stand for an installation:
the defaults, and one with all that a platform team turns on. A finding that accepted-findings.yaml does not list fails, and so
does a listed one that is gone."""

import json
import pathlib
import subprocess
import sys
import tempfile

import yaml

folder = pathlib.Path(__file__).parent
chart = folder.parent.parent / "charts/mcp-auth"
checkov = sys.argv[1]
IMAGES = {
    "operator": {"image": {"repository": "registry.example.com/mcp-auth-operator"}},
    "sidecar": {"image": {"repository": "registry.example.com/mcp-auth-sidecar"}},
}
# By name, the set's values.
INSTALLATIONS = {"defaults": {}, "hardened": yaml.safe_load((folder / "hardened.yaml").read_text())}


def merged(base, over):
    return {**base, **{k: merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()}}


def run(*command, text=None, statuses=(0,)):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode not in statuses:
        sys.exit(f"error: {command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def rendered(values, release="mcp-auth", namespace="mcp-auth-system"):
    return run("helm", "template", release, chart, "--namespace", namespace, "--values", "-", text=json.dumps(merged(IMAGES, values)))


def write_schemas(target):
    """One JSON schema for each kind that the API server has, closed against fields that it does not know."""
    definitions = json.loads(run("kubectl", "get", "--raw", "/openapi/v2"))["definitions"]
    kinds = {}
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            kinds.setdefault((kind["group"], kind["version"], kind["kind"]), name)
    for name, definition in definitions.items():
        # Numbers or text: Swagger cannot say it, so the document claims text.
        if definition.get("format") == "int-or-string" or name.endswith(".resource.Quantity"):
            definition.clear()
        if "properties" in definition and not definition.get("x-kubernetes-preserve-unknown-fields"):
            definition.setdefault("additionalProperties", False)
    for (group, version, kind), name in kinds.items():
        group = f"{group.split('.')[0]}-" if group else ""
        schema = {"$ref": f"#/definitions/{name}", "definitions": definitions}
        if kind in WANTED:
            (target / f"{kind.lower()}-{group}{version}.json").write_text(json.dumps(schema))


def kube_score(manifests):
    found = json.loads(run("kube-score", "score", "--output-format", "json", manifests, statuses=(0, 1)))
    for item in found or []:
        for check in item["checks"]:
            if not check["skipped"] and check["grade"] < 7:
                for comment in check["comments"] or [{"summary": ""}]:
                    yield f"kube-score {check['check']['id']}", f"{item['object_name']}: {comment['summary']}"


def checkov_findings(manifests):
    arguments = ["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "--output", "json", "--file", manifests]
    report = json.loads(run(checkov, *arguments, statuses=(0, 1)))
    for check in report["results"]["failed_checks"]:
        yield f"checkov {check['check_id']}", f"{check['resource']}: {check['check_name']}"


cases = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((folder / "cases").glob("*.yaml"))}
good = {name: case for name, case in cases.items() if not case.get("refused")}
texts = {name: rendered(case.get("values") or {}, case.get("release", "mcp-auth"), case.get("namespace", "mcp-auth-system")) for name, case in good.items()}
WANTED = {object["kind"] for text in texts.values() for object in yaml.safe_load_all(text) if object}

problems = []
with tempfile.TemporaryDirectory(prefix="mcp-auth-chart-lint.") as work:
    work = pathlib.Path(work)
    (work / "schemas").mkdir()
    write_schemas(work / "schemas")
    for name, text in texts.items():
        (work / f"{name}.yaml").write_text(text)
    location = str(work / "schemas") + "/{{ .ResourceKind }}{{ .KindSuffix }}.json"
    arguments = ["-strict", "-summary", "-output", "json", "-schema-location", location]
    report = json.loads(run("kubeconform", *arguments, *[str(work / f"{name}.yaml") for name in texts], statuses=(0, 1)))
    problems += [f"kubeconform: {pathlib.Path(r['filename']).stem} {r['kind']}/{r['name']}: {r['msg']}" for r in report["resources"]]
    summary = report["summary"]
    if summary["valid"] < len(texts):
        problems.append(f"kubeconform looked at {summary['valid']} objects of {len(texts)} sets of values")
    print(f"kubeconform: {summary['valid']} objects of {len(texts)} sets of values are valid, {summary['skipped']} skipped")

    accepted = yaml.safe_load((folder / "accepted-findings.yaml").read_text())
    seen = set()
    for name, values in INSTALLATIONS.items():
        path = work / f"installation-{name}.yaml"
        path.write_text(rendered(values))
        found = [*kube_score(path), *checkov_findings(path)]
        for rule, text in found:
            places = [place for place in ("always", name) if rule in accepted[place]]
            seen.update((place, rule) for place in places)
            if not places:
                problems.append(f"{name}: {rule}: {text}")
        print(f"kube-score and checkov, {name}: {len(found)} findings, {len({rule for rule, _ in found})} rules")
    for place, rules in accepted.items():
        gone = [rule for rule in rules if (place, rule) not in seen]
        problems += [f"accepted-findings.yaml: {place}: {rule} is no longer found; remove it" for rule in gone]

if problems:
    sys.exit("error: the chart's objects have faults; mend them, or say in tests/chart/accepted-findings.yaml why they are as they are\n" + "\n".join(problems))
