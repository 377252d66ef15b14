"""From what arrived at the MCP server to the matrix, and what of it must never be."""

from collections.abc import Iterable
from dataclasses import dataclass

from users import USERS, owner

STARTUP = "start-up discovery"
METHODS = ["tools/list", "tools/call"]
NONE = "–"


@dataclass(frozen=True)
class Row:
    """What arrived with each method, in words, in the order of METHODS."""

    surface: str
    cells: tuple[str, ...]


def row(surface: str, arrived: list[dict]) -> Row:
    of_method = {method: [each for each in arrived if each["rpc"] == method] for method in METHODS}
    return Row(surface, tuple(cell(of_method[method]) for method in METHODS))


def cell(arrived: list[dict]) -> str:
    """
    >>> ada = {"cookies": {"session_id": "S-ada", "theme": "theme-of-ada"}, "identity": [["x-forwarded-user", "ada"]]}
    >>> nobody = {"cookies": {}, "identity": []}
    >>> cell([]), cell([nobody]), cell([ada]), cell([ada, nobody])
    ('–', 'token', 'token, user', 'token, user; also token')
    """
    if not arrived:
        return NONE
    owners = {owner(each) for each in arrived}
    kinds = ["token, user"] if owners & set(USERS) else []
    return "; also ".join(kinds + (["token"] if "nobody" in owners else []))


def problems(surface: str, arrived: list[dict]) -> Iterable[str]:
    """What must not be, whatever LiteLLM does.

    >>> own = {"cookies": {"session_id": "S-ada", "theme": "theme-of-ada"}, "identity": [["x-forwarded-user", "ada"]]}
    >>> common = {"rpc": "tools/call", "status": 200, "service": "litellm", "leaked": []}
    >>> list(problems("/mcp", [common | own]))
    []
    >>> mixed = own | {"identity": [["x-forwarded-user", "bob"]]}
    >>> list(problems("/mcp", [common | mixed]))
    ["/mcp: tools/call arrived with what is no user's: cookies session_id, theme"]
    >>> list(problems(STARTUP, [common | own]))
    ["start-up discovery: tools/call arrived with a user's context, before any user came"]
    >>> list(problems("/mcp", [common | own | {"service": None, "leaked": ["mcpauth-context"]}]))
    ["/mcp: tools/call arrived without the service's token", '/mcp: tools/call arrived with mcpauth-context']
    """
    for each in arrived:
        what = f"{surface}: {each['rpc']} arrived"
        if each["service"] != "litellm":
            yield f"{what} without the service's token"
        if each["leaked"]:
            yield f"{what} with {', '.join(each['leaked'])}"
        if owner(each) is None:
            yield f"{what} with what is no user's: cookies {', '.join(sorted(each['cookies'])) or 'none'}"
        if surface == STARTUP and owner(each) in USERS:
            yield f"{what} with a user's context, before any user came"


def unequal(surface: str, arrived: list[dict]) -> Iterable[str]:
    """Where one user's context arrives, the other's does too."""
    for method in METHODS:
        found = {owner(each) for each in arrived if each["rpc"] == method} & set(USERS)
        if found and found != set(USERS):
            yield f"{surface}: {method} arrived for {', '.join(found)} only"


def render(versions: dict[str, list[Row]]) -> str:
    """One table: a surface a row, and for each version of LiteLLM what arrives on list and on call."""
    lines = ["| surface | " + " | ".join(f"{version}: {method}" for version in versions for method in METHODS) + " |"]
    lines.append("| --- " * (1 + len(versions) * len(METHODS)) + "|")
    for rows in zip(*versions.values(), strict=True):
        cells = [cell for row in rows for cell in row.cells]
        lines.append(f"| {code(rows[0].surface)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def code(surface: str) -> str:
    return f"`{surface}`" if surface.startswith("/") and "," not in surface else surface
