"""What LiteLLM decided by the addresses of its callers, as the tables of docs/client-addresses.md: one of each setting, with a row
for each caller and a column for each group of servers, which must decide the same.
"""

import itertools
import json
from dataclasses import dataclass

from processes import Broken

# A proxy in front of LiteLLM, whoever connects past it, and who sent the request to the proxy.
INGRESS, STRANGER, CLIENT, FORGED = "127.0.0.9", "127.0.0.77", "203.0.113.10", "6.6.6.6"
RANGE = "127.0.0.8/29"
DEFAULT = "127.0.0.1,::1"
NAMES = {INGRESS: "the proxy", STRANGER: "a stranger", CLIENT: "the client", FORGED: "a forged address"}


@dataclass(frozen=True)
class Caller:
    """Who connects, with these fields `X-Forwarded-For` and this `X-Forwarded-Proto`."""

    peer: str
    stated: tuple[str, ...]
    scheme: str | None


@dataclass(frozen=True)
class Asked:
    """What a server that trusts these proxies decided without the sidecar and through it, and as which documented difference."""

    server: str
    trusted: str
    caller: Caller
    settings: dict
    direct: dict
    through: dict
    told: str | None


# What a column's servers are called, by the beginnings of their names, and what they trust.
COLUMNS = {
    "uvicorn, gunicorn": (("uvicorn", "gunicorn"), (DEFAULT,)),
    "uvicorn, `FORWARDED_ALLOW_IPS` has the proxy": (("uvicorn",), (INGRESS, RANGE)),
    "uvicorn, `FORWARDED_ALLOW_IPS: *`": (("uvicorn",), ("*",)),
    "hypercorn, granian": (("hypercorn", "granian"), (DEFAULT,)),
}


def render(asked: list[Asked], settings: list[dict], stated: list[list[str]]) -> str:
    found: dict[tuple, list[Asked]] = {}
    for each in (each for each in asked if each.caller.scheme is None):
        key = (json.dumps(each.settings), each.caller.peer, each.caller.stated, column(each))
        found.setdefault(key, []).append(each)
    parts = []
    for general in settings:
        rows = ["| who connects | `X-Forwarded-For` | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
        for peer, fields in itertools.product((INGRESS, STRANGER), stated):
            cells = [cell(found[json.dumps(general), peer, tuple(fields), name], general) for name in COLUMNS]
            rows.append(f"| {NAMES[peer]} | {named(', '.join(fields)) or 'none'} | {' | '.join(cells)} |")
        parts.append("\n".join([f"**{title(general)}**", "", *rows]))
    return "\n\n".join(parts)


def column(asked: Asked) -> str:
    is_of = lambda servers, trusted: asked.server.startswith(servers) and asked.trusted in trusted
    return next(name for name, of in COLUMNS.items() if is_of(*of))


def cell(servers: list[Asked], settings: dict) -> str:
    """What all of the servers decide: without the sidecar and, where that differs, through it."""
    # LiteLLM 1.80.17 hides no server, and so has one decision less.
    said = sorted({(decision(each.direct, settings), decision(each.through, settings)) for each in servers}, key=str)
    whole = [pair for pair in said if None not in pair[0]]
    if len(whole) != 1 or any(pair not in whole and allowed(pair) != allowed(whole[0]) for pair in said):
        raise Broken(f"servers of one column decide otherwise: {[(each.server, each.direct, each.through) for each in servers]}")
    without, behind = (", ".join(word for word in words if word) for words in whole[0])
    return without if without == behind else f"**{without} → {behind}**"


def decision(found: dict, settings: dict) -> tuple[str, str | None]:
    is_allowed = "allowed" if found["allowed by allowed_ips"] else "refused"
    internal = found.get("sees internal MCP servers")
    is_internal = None if internal is None else "internal" if internal else "external"
    return (is_allowed if "allowed_ips" in settings else "", is_internal)


def allowed(pair: tuple) -> tuple[str, str]:
    return tuple(words[0] for words in pair)


def title(settings: dict) -> str:
    said = [f"`{name}: {value(stated)}`" for name, stated in settings.items()]
    return ", ".join(said) or "none of the settings"


def value(stated: object) -> str:
    if isinstance(stated, list):
        return f"[{', '.join(named(each).replace(RANGE, 'the proxy') for each in stated)}]"
    return json.dumps(stated)


def named(addresses: str) -> str:
    for address, name in NAMES.items():
        addresses = addresses.replace(address, name)
    return addresses
