"""rights [--write] AUDIT_LOG CHART ACCOUNT: compares what the operator's roles grant with what it asked the API server for.

AUDIT_LOG is what kube-apiserver wrote of the requests of ACCOUNT (NAMESPACE:NAME), CHART what `helm template` printed. Prints each
granted verb with the number of requests that used it. A verb that no request used fails, and so does a request that no rule
grants, unless rights.yaml says why. docs/rights.md shows the same, and what the chart's other modes grant: `--write` writes it, and
without it a page that names other rights fails.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs/rights.md"
# The chart's modes, as the page has them, by the values that make them.
MODES = {
    "default": [],
    "`watchNamespaces`": ["watchNamespaces={llm}"],
    "and `rbac.secretNames`": ["watchNamespaces={llm}", "rbac.secretNames={tools-oauth}"],
    "`rbac.secrets`: `perNamespace`": ["rbac.secrets=perNamespace"],
    "cert-manager": ["certificates.certManager.enabled=true"],
}
RELEASE = "mcp-auth-system"

# One for each verb: where it counts, group, resource, names, verb.
Grant = collections.namedtuple("Grant", "scope group resource names verb")


def objects_of(chart):
    return [found for found in yaml.safe_load_all(chart) if found]


def is_bound(role, objects, account):
    """Whether a binding gives this role to the account."""
    namespace, _, name = account.partition(":")
    return any(
        binding["kind"] == f"{role['kind']}Binding"
        and binding["metadata"].get("namespace") == role["metadata"].get("namespace")
        and binding["roleRef"]["name"] == role["metadata"]["name"]
        and {"kind": "ServiceAccount", "name": name, "namespace": namespace} in binding["subjects"]
        for binding in objects
    )


def grants(objects, account):
    for role in objects:
        if role["kind"] in ("ClusterRole", "Role") and is_bound(role, objects, account):
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield Grant(role["metadata"].get("namespace", "*"), group, resource, tuple(rule.get("resourceNames", ())), verb)


def requests(audit_log, account):
    """Group, resource, verb, namespace and name of each request, and whether it was let through."""
    for line in pathlib.Path(audit_log).read_text().splitlines():
        event = json.loads(line)
        # A watch is told of when it begins and when it ends.
        reference = event.get("objectRef")
        if reference is None or event["user"]["username"] != f"system:serviceaccount:{account}":
            continue
        resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
        yield reference.get("apiGroup", ""), resource, event["verb"], reference.get("namespace", ""), reference.get("name", "")


def allows(grant, request):
    group, resource, verb, in_namespace, object_name = request
    return (
        (grant.group, grant.resource, grant.verb) == (group, resource, verb)
        and grant.scope in ("*", in_namespace)
        and (not grant.names or object_name in grant.names)
    )


def described(group, resource, verb):
    return f"{verb} {'.'.join(filter(None, (resource, group)))}"


def place(grant, names=True):
    """Where a right counts, in the words of the page.

    >>> place(Grant("*", "", "secrets", (), "get")), place(Grant("llm", "", "secrets", ("a",), "get"))
    ('the cluster', '`llm`, named `a`')
    """
    where = {"*": "the cluster", RELEASE: "its own namespace"}.get(grant.scope, f"`{grant.scope}`")
    named = f", named {', '.join(f'`{name}`' for name in grant.names)}" if grant.names and names else ""
    return where + named


def by_mode():
    """For each right, where each mode of the chart grants it."""
    table = collections.defaultdict(dict)
    for mode, values in MODES.items():
        stated = [word for value in ["operator.image.repository=operator", "sidecar.image.repository=sidecar", *values] for word in ("--set", value)]
        command = ["helm", "template", "mcp-auth", str(ROOT / "charts/mcp-auth"), "--namespace", RELEASE, "--no-hooks", *stated]
        chart = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        by_right = collections.defaultdict(list)
        for grant in grants(objects_of(chart), f"{RELEASE}:mcp-auth-operator"):
            by_right[".".join(filter(None, (grant.resource, grant.group))), place(grant)].append(grant.verb)
        for (resource, where), verbs in by_right.items():
            table[resource].setdefault(mode, []).append(f"{where}: {', '.join(verbs)}")
    rows = [f"| {' | '.join(['right', *MODES])} |", "|---" * (1 + len(MODES)) + "|"]
    for resource, modes in sorted(table.items()):
        cells = ["<br>".join(modes.get(mode, ["none"])) for mode in MODES]
        rows.append(f"| {resource} | {' | '.join(cells)} |")
    return "\n".join(rows)


def compared(granted, used, reasons):
    rows = ["| right | where | requests |", "|---|---|---|"]
    for grant in granted:
        count = used[grant] or f"none: {reasons[grant]}"
        rows.append(f"| {described(grant.group, grant.resource, grant.verb)} | {place(grant)} | {count} |")
    return "\n".join(rows)


def without_counts(text):
    """
    >>> without_counts("| get a | the cluster | 17 |")
    '| get a | the cluster |'
    """
    return re.sub(r"\| \d+ \|$", "|", text, flags=re.MULTILINE)


def show(tables, write):
    """Puts the tables into the page, or looks whether it has the same rights."""
    text = PAGE.read_text()
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        head, _, rest = text.partition(begin)
        old, _, tail = rest.partition(end)
        if not write and without_counts(old.strip()) != without_counts(table):
            yield f"docs/rights.md: the table {name!r} names other rights: make test-api WRITE=1"
        text = head + begin + table + end + tail
    if write:
        PAGE.write_text(text)


def main():
    arguments = sys.argv[1:]
    write = arguments[0] == "--write"
    audit_log, chart, account = arguments[write:]
    exceptions = yaml.safe_load((pathlib.Path(__file__).parent / "rights.yaml").read_text())
    granted = list(grants(objects_of(pathlib.Path(chart).read_text()), account))
    if not granted:
        sys.exit(f"error: {chart} binds no role to {account}")
    used, not_granted = collections.Counter(), collections.Counter()
    for request in requests(audit_log, account):
        allowing = [grant for grant in granted if allows(grant, request)]
        used.update(allowing)
        if not allowing:
            not_granted[described(*request[:3])] += 1
    if not used:
        sys.exit(f"error: {audit_log} has no request of {account}")

    problems, excused, reasons = [], set(), {}

    def excuse(kind, what):
        excused.add((kind, what))
        return exceptions[kind].get(what)

    for grant in granted:
        what = described(grant.group, grant.resource, grant.verb)
        count = used[grant]
        reasons[grant] = "" if count else excuse("unused", what)
        print(f"{count:7} requests  {what} in {place(grant)}" + (f"  ({reasons[grant]})" if reasons[grant] else ""))
        if not count and not reasons[grant]:
            problems.append(f"granted and never used: {what} in {place(grant)}")
    for what, count in sorted(not_granted.items()):
        reason = excuse("notGranted", what)
        print(f"{count:7} requests  {what}, which no rule grants" + (f"  ({reason})" if reason else ""))
        if not reason:
            problems.append(f"used and not granted: {what}")
    listed = {(kind, what) for kind, rights in exceptions.items() for what in rights}
    problems += [f"tests/api/rights.yaml: {kind}: {what} is used or granted now; remove it" for kind, what in sorted(listed - excused)]
    print(f"{len(granted)} verbs granted, {sum(bool(used[grant]) for grant in granted)} used, by {sum(used.values())} requests")
    problems += show({"counted by make test-api": compared(granted, used, reasons), "rendered by make test-api": by_mode()}, write)
    if problems:
        sys.exit("error: the operator's roles are not what it needs\n" + "\n".join(problems))


if __name__ == "__main__":
    main()
