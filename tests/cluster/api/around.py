"""Makes what stands around an operator that runs on this machine, outside of any cluster.

  chart URL       the chart's objects as JSON for `kubectl apply`, without its workload, the webhook led to URL
  settings        the chart's settings of the sidecar
  expired KEY     a ServiceAccount token, rightly signed with the API server's key, whose time is over

The first two read what `helm template` prints.
"""

import json
import sys
import time

import jwt
import yaml

WORKLOAD = ("Deployment", "Service")


def chart(url: str) -> str:
    objects = [found for found in rendered() if found["kind"] not in WORKLOAD]
    for webhook in (each for found in objects for each in found.get("webhooks", [])):
        path = webhook["clientConfig"].pop("service")["path"]
        webhook["clientConfig"]["url"] = url + path
    return "\n---\n".join(json.dumps(found) for found in objects)


def settings() -> str:
    return next(found["data"]["sidecar.json"] for found in rendered() if "sidecar.json" in found.get("data", {}))


def expired(key_file: str) -> str:
    with open(key_file) as key:
        now = int(time.time())
        account = {"namespace": "default", "serviceaccount": {"name": "default", "uid": "gone"}}
        claims = {
            "iss": "https://kubernetes.default.svc",
            "sub": "system:serviceaccount:default:default",
            "aud": ["mcp-auth-operator"],
            "iat": now - 7200,
            "nbf": now - 7200,
            "exp": now - 3600,
            "kubernetes.io": account,
        }
        return jwt.encode(claims, key.read(), algorithm="ES256")


def rendered() -> list[dict]:
    return [found for found in yaml.safe_load_all(sys.stdin) if found]


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print({"chart": chart, "settings": settings, "expired": expired}[command](*arguments))
