"""Reads overlays with PyYAML, as LiteLLM does, and compares what it would find with and without them.

stdin: {"cases": [{"name", "original" (path or null), "overlay" (path), "usable" (bool), "outbound", "secret", "routes",
        "managed": [server]}], "scalars": [{"text", "kind"}]}
stdout: one line for each difference; the exit status is 1 if there is any.
"""
import hashlib
import json
import math
import os
import sys

import yaml

CONTEXT = "mcpauth-context"
SECRET = "mcpauth-outbound-secret"
AUTHENTICATION = {"auth_type", "authentication_token", "auth_value", "client_id", "client_secret", "token_url",
                  "authorization_url", "registration_url", "scopes", "oauth2_flow"}
# What a server is registered with, by the protocol's names.
SETTINGS = {"description": "description", "alias": "alias", "instructions": "instructions", "allowedTools": "allowed_tools",
            "disallowedTools": "disallowed_tools", "allowedParameters": "allowed_params", "accessGroups": "access_groups",
            "allowAllKeys": "allow_all_keys", "availableOnPublicInternet": "available_on_public_internet",
            "allowSampling": "allow_sampling", "allowElicitation": "allow_elicitation", "timeoutSeconds": "timeout",
            "maxConcurrentRequests": "max_concurrent_requests", "requestsPerMinute": "rpm"}
differences = []


def differ(case, what):
    differences.append(f"{case}: {what}")


def same(a, b):
    """Equal in type and value, all the way down, and in order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(k in b and same(v, b[k]) for k, v in a.items()) and same(sorted(map(repr, a)), sorted(map(repr, b)))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b


def load(path):
    with open(path) as file:
        loaded = yaml.safe_load(file) or {}
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} is no mapping")
    return loaded


def effective(root, folder):
    """The merge of LiteLLM's `include`, breadth first; `root` is the content of a file in `folder`."""
    merged = dict(root)
    pending = [(entry, folder) for entry in root.get("include", [])]
    seen = set()
    while pending:
        entry, beside = pending.pop(0)
        path = os.path.abspath(os.path.join(beside, entry))
        if not os.path.exists(path):
            path = os.path.abspath(os.path.join(folder, entry))
        if path in seen:
            continue
        seen.add(path)
        included = load(path)
        pending += [(entry, os.path.dirname(path)) for entry in included.pop("include", [])]
        for key, value in included.items():
            if isinstance(value, list) and isinstance(merged.get(key), list):
                merged[key] = merged[key] + value
            else:
                merged[key] = value
    merged.pop("include", None)
    if not isinstance(merged.get("mcp_servers") or {}, dict):
        raise ValueError("mcp_servers is no mapping")
    return merged


def server_id(name, entry, aliases):
    alias = entry.get("alias")
    if alias is None:
        alias = next((a for a, target in (aliases or {}).items() if target == name), None)
    transport = entry.get("transport", "MCPTransport.http")
    text = f"{name}|{entry.get('url') or ''}|{transport}|{entry.get('auth_type') or ''}|{alias or ''}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check(case):
    name, overlay = case["name"], case["overlay"]
    originals = [case["original"]] if case["original"] else []
    folder = os.path.dirname(case["original"] or overlay)
    try:
        before = effective({"include": originals}, folder)
    except Exception as error:
        if case["usable"]:
            differ(name, f"rendered, though LiteLLM cannot load it: {error}")
        elif load(overlay) != {}:
            differ(name, "the overlay is not empty")
        return
    if not case["usable"]:
        return differ(name, "refused, though LiteLLM can load it")
    after = effective({"include": originals + [overlay]}, folder)
    for path in [overlay] + load(overlay).get("include", []):
        if set(load(path)) - {"include"} != {"mcp_servers"}:
            differ(name, f"{path} holds more than mcp_servers: {sorted(load(path))}")
    for key in {*before, *after} - {"mcp_servers"}:
        if not same(before.get(key), after.get(key)):
            differ(name, f"{key} was {before.get(key)!r} and is {after.get(key)!r}")
    was, now = before.get("mcp_servers") or {}, after["mcp_servers"]
    for key in {*was, *now} - set(case["managed"]):
        if not same(was.get(key), now.get(key)):
            differ(name, f"server {key!r} was {was.get(key)!r} and is {now.get(key)!r}")
    for server in case["managed"]:
        route = next(route for route in case["routes"] if route["server"] == server)
        check_secret(name, server, now[server], case["secret"])
        check_managed(name, route, was.get(server), now[server], case["outbound"], (before.get("litellm_settings") or {}).get("mcp_aliases"))


def check_secret(case, server, now, secret):
    """Takes it out, so that what remains are the user's headers."""
    ours = [(key, value) for key, value in now["static_headers"].items() if key.lower() == SECRET]
    if ours != [(SECRET, secret)]:
        differ(case, f"{server}: the outbound secret is {ours!r}")
    users = {key: value for key, value in now.pop("static_headers").items() if key.lower() != SECRET}
    if users:
        now["static_headers"] = users


def check_managed(case, route, was, now, outbound, aliases):
    name = route["server"]
    url = f"http://{outbound}/{name}/"
    if not now["url"].startswith(url):
        differ(case, f"{name}: {now['url']} does not lead to {url}")
    if now["transport"] != {"StreamableHttp": "http", "Sse": "sse"}[route["transport"]]:
        differ(case, f"{name}: transport {now['transport']!r}")
    if now["extra_headers"].count(CONTEXT) != 1 or any(h.lower() == "authorization" for h in now["extra_headers"]):
        differ(case, f"{name}: extra_headers {now['extra_headers']!r}")
    if AUTHENTICATION & set(now):
        differ(case, f"{name}: still authenticates by itself: {AUTHENTICATION & set(now)}")
    original = was or {"url": route["url"], "transport": now["transport"], "alias": now.get("alias")}
    if not was:
        stated = {SETTINGS[field]: value for field, value in route.get("litellm", {}).items()}
        for key in set(now) - {"url", "transport", "extra_headers", "server_id"}:
            if not same(stated.get(key), now[key]):
                differ(case, f"{name}: {key} should be {stated.get(key)!r} and is {now[key]!r}")
        for key in set(stated) - set(now) - {"alias"}:
            if not str(stated[key]).startswith("os.environ/"):
                differ(case, f"{name}: {key} is missing")
    environment = any(str(original.get(key)).startswith("os.environ/") for key in ("url", "alias", "transport", "auth_type"))
    expected = original.get("server_id") or (None if environment else server_id(name, original, aliases))
    if now.get("server_id") != expected:
        differ(case, f"{name}: server_id {now.get('server_id')!r} instead of {expected!r}")
    for key, value in (was or {}).items():
        if key in {"url", "transport", "extra_headers", "server_id"} | AUTHENTICATION:
            continue
        if key == "static_headers":
            value = {static_name(k): v for k, v in (value or {}).items() if k.strip().lower() not in ("authorization", SECRET)} or None
        if not same(value, now.get(key)):
            differ(case, f"{name}: {key} was {value!r} and is {now.get(key)!r}")


def static_name(name):
    """The keys of gateways have another name on their way through LiteLLM."""
    lower = str(name).strip().lower()
    is_key = lower.replace("_", "-") in {"api-key", "ocp-apim-subscription-key", "x-api-key", "x-goog-api-key"}
    return f"mcpauth-static-{'0' * 32}-{lower}" if is_key else name


def check_scalar(text, kind):
    """The type by the tag, because the safe loader raises an error for `=` and for impossible dates."""
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False)).rsplit(":", 1)[1]
    if tag != kind:
        differ("scalars", f"{text!r} is {tag} and not {kind}")


job = json.load(sys.stdin)
for case in job["cases"]:
    try:
        check(case)
    except Exception as error:
        differ(case["name"], f"{type(error).__name__}: {error}")
for scalar in job["scalars"]:
    check_scalar(scalar["text"], scalar["kind"])
print("\n".join(differences))
sys.exit(1 if differences else 0)
