"""rights AUDIT_LOG CHART ACCOUNT: compares what the operator's roles grant with what it asked the API server for.

AUDIT_LOG is what kube-apiserver wrote of the requests of ACCOUNT (NAMESPACE:NAME), CHART what `helm template` printed. Prints each
granted verb with the number of requests that used it. A verb that no request used fails, and so does a request that no rule
grants, unless rights.yaml says why.
"""

import collections
import json
import pathlib
import sys

import yaml

audit_log, chart, account = sys.argv[1:]
namespace, _, name = account.partition(":")
exceptions = yaml.safe_load((pathlib.Path(__file__).parent / "rights.yaml").read_text())
objects = [found for found in yaml.safe_load_all(pathlib.Path(chart).read_text()) if found]


def is_bound(role):
    """Whether a binding gives this role to the account."""
    return any(
        binding["kind"] == f"{role['kind']}Binding"
        and binding["metadata"].get("namespace") == role["metadata"].get("namespace")
        and binding["roleRef"]["name"] == role["metadata"]["name"]
        and {"kind": "ServiceAccount", "name": name, "namespace": namespace} in binding["subjects"]
        for binding in objects
    )


# One for each verb: where it counts, group, resource, names, verb.
Grant = collections.namedtuple("Grant", "scope group resource names verb")


def grants():
    for role in objects:
        if role["kind"] in ("ClusterRole", "Role") and is_bound(role):
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield Grant(role["metadata"].get("namespace", "*"), group, resource, tuple(rule.get("resourceNames", ())), verb)


def requests():
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


granted = list(grants())
if not granted:
    sys.exit(f"error: {chart} binds no role to {account}")
used, not_granted = collections.Counter(), collections.Counter()
for request in requests():
    allowing = [grant for grant in granted if allows(grant, request)]
    used.update(allowing)
    if not allowing:
        not_granted[described(*request[:3])] += 1
if not used:
    sys.exit(f"error: {audit_log} has no request of {account}")

problems, excused = [], set()


def excuse(kind, what):
    reason = exceptions[kind].get(what)
    excused.add((kind, what))
    return reason


for grant in granted:
    what = described(grant.group, grant.resource, grant.verb)
    where = "" if grant.scope == "*" else f" in {grant.scope}"
    names = f" named {', '.join(grant.names)}" if grant.names else ""
    count = used[grant]
    reason = "" if count else excuse("unused", what)
    print(f"{count:7} requests  {what}{names}{where}" + (f"  ({reason})" if reason else ""))
    if not count and not reason:
        problems.append(f"granted and never used: {what}{names}{where}")
for what, count in sorted(not_granted.items()):
    reason = excuse("notGranted", what)
    print(f"{count:7} requests  {what}, which no rule grants" + (f"  ({reason})" if reason else ""))
    if not reason:
        problems.append(f"used and not granted: {what}")
listed = {(kind, what) for kind, rights in exceptions.items() for what in rights}
problems += [f"tests/api/rights.yaml: {kind}: {what} is used or granted now; remove it" for kind, what in sorted(listed - excused)]
print(f"{len(granted)} verbs granted, {sum(bool(used[grant]) for grant in granted)} used, by {sum(used.values())} requests")
if problems:
    sys.exit("error: the operator's roles are not what it needs\n" + "\n".join(problems))
