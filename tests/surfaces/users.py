"""Two users, as their browsers and their front end send them, and what of that may reach the MCP server."""

from litellm_calls import Call

COOKIES_PASSED = ["session_id", "theme"]
HEADER_PASSED = "x-forwarded-user"
PASSTHROUGH = {
    # LiteLLM discovers without a user all the same.
    "userContext": "Required",
    "cookiePassthrough": {"enabled": True, "cookieNames": COOKIES_PASSED},
    "headerPassthrough": {"headerNames": [HEADER_PASSED]},
}
USERS = ["ada", "bob"]
FORGED = "forged-by-the-client"
# The access group that the server is in.
GROUP = "our-staff"
# Headers for the server, by its name and by its group's.
FOR_SERVER = {"x-mcp-tools-x-forged-by-name": FORGED, "x-mcp-our_staff-x-forged-by-group": FORGED}


def own_cookies(user: str) -> dict[str, str]:
    return {"session_id": f"S-{user}", "theme": f"theme-of-{user}"}


def call_of(user: str) -> Call:
    """With all that must not arrive, too: other cookies, LiteLLM's own, and our header in each place that it could be in."""
    context = {"mcpauth-context": FORGED, "x-mcp-tools-mcpauth-context": FORGED}
    return Call(
        cookies={"tracking": "1", **own_cookies(user), "token": f"ui-of-{user}"},
        headers={HEADER_PASSED: user} | context | FOR_SERVER,
        tool_headers=FOR_SERVER | {"mcpauth-context": FORGED, "Cookie": "session_id=forged", "Authorization": "Bearer forged"},
    )


def owner(arrived: dict) -> str | None:
    """Whose request it is: a user's, with exactly what is theirs, or nobody's, with nothing. None: neither."""
    for user in USERS:
        if arrived["cookies"] == own_cookies(user) and arrived["identity"] == [[HEADER_PASSED, user]]:
            return user
    return "nobody" if not arrived["cookies"] and not arrived["identity"] else None
