"""What mcp-auth promises, each checked by calls through LiteLLM: on the demo's cluster (`run` beside this file) and on
one machine (`tests/try`).
"""

import abc
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

from terminal import LIMIT, Broken, check, note, until

CLIENT = "litellm"
TOOL_NAMES = ["big", "slow", "whoami"]
ALLOWED = ["session_id", "theme"]
USERS = {
    "alice": {"session_id": "alice-4711", "theme": "dark", "tracking": "alice-tracked", "token": "alice-ui-jwt"},
    "bob": {"session_id": "bob-0815", "theme": "light", "tracking": "bob-tracked", "token": "bob-ui-jwt"},
}
WAYS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "mcp": "/mcp"}


class Stand(abc.ABC):
    """LiteLLM with an MCP server, an OAuth2 server and a user's program, wherever they run."""

    issuer: str
    """URL of the OAuth2 server, as the user's program reaches it."""
    mcp_url: str
    first_secret: str
    """Of the OAuth2 server's client `litellm`, at the start."""

    @abc.abstractmethod
    def client(self, *arguments: str) -> dict:
        """The user's program: one command, one answer in JSON, which may tell of a failure."""

    @abc.abstractmethod
    def start_load(self, *arguments: str) -> subprocess.Popen:
        """The user's program making calls until `end_load`; it prints its result to a pipe."""

    @abc.abstractmethod
    def end_load(self) -> None: ...

    @abc.abstractmethod
    def oauth(self, method: str, path: str, body: dict | None = None) -> dict:
        """Asks the OAuth2 server's administration."""

    @abc.abstractmethod
    def store_secret(self, secret: str) -> None:
        """Puts a client secret where mcp-auth reads it."""

    def observed(self) -> dict:
        return self.client("observed", "--url", self.mcp_url)

    def credential(self) -> int | None:
        """The generation of the secret that the token of a call made now came from."""
        answer = self.client("call", "--cookie", "session_id=watching").get("answer")
        return answer.get("credential") if isinstance(answer, dict) else None


def is_refused(stand: Stand) -> None:
    listed = stand.client("tools")
    check(listed.get("tools") == [], "LiteLLM lists 0 tools", listed)
    counted = stand.observed()
    check(counted.get("status_401", 0) > 0, f"the MCP server answered 401 {counted.get('status_401')} times", counted)
    check("tools/list" not in counted, "and gave nothing away", counted)


def discovers_tools(stand: Stand) -> None:
    # Looked at first, so that no request of a user can have caused it.
    counted = until("the MCP server was asked for its tools", lambda: stand.observed().get("tools/list", 0))
    check(True, f"LiteLLM discovered the tools at its start: tools/list answered {counted} times")
    listed = stand.client("tools")
    names = sorted(name.rsplit("-", 1)[-1] for name in listed.get("tools", []))
    check(names == TOOL_NAMES, f"LiteLLM lists {', '.join(listed.get('tools', []))}", listed)


def keeps_users_apart(stand: Stand) -> None:
    for way, path in WAYS.items():
        # At the same moment, so that whoever could mix them up has the occasion.
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda user: _call(stand, way, user), USERS))
        for user, call in zip(USERS, answers):
            answer = call.get("answer")
            check(isinstance(answer, dict), f"{path}: {user} is answered by the tool", call)
            allowed = {name: USERS[user][name] for name in ALLOWED}
            promise = f"{path}: {user} arrives with {' and '.join(f'{n}={v}' for n, v in allowed.items())}, and no other cookie"
            check(answer["cookies"] == allowed, promise, call)
            check(answer["service"] == CLIENT, f"{path}: the caller is proven to be LiteLLM", call)
            check(answer["leaked"] == [], f"{path}: no credential of {user}'s arrives", call)


def _call(stand: Stand, way: str, user: str) -> dict:
    sent = [part for name, value in USERS[user].items() for part in ("--cookie", f"{name}={value}")]
    return stand.client("call", "--through", way, "--user", user, *sent)


def follows_a_rotation(stand: Stand) -> None:
    load = stand.start_load("--through", *WAYS, "--rate", "3", "--seconds", "400")
    try:
        note("a constant load of calls begins")
        until("calls arrive", lambda: stand.credential() == 1)
        new = stand.oauth("POST", f"/clients/{CLIENT}/rotate")
        note("the OAuth2 server has a second secret, and accepts both")
        stand.store_secret(new["secret"])
        until("a token from the new secret is in use", lambda: stand.credential() == new["generation"])
        check(True, "tokens now come from the new secret")
        stand.oauth("POST", f"/clients/{CLIENT}/retire", {"generation": 1})
        refused = stand.client("direct", "--url", stand.mcp_url, "--issuer", stand.issuer, "--client-secret", stand.first_secret)
        check("invalid_client" in refused.get("failure", ""), "the old secret is refused at the OAuth2 server", refused)
        issued = _issued_for(stand, new["generation"])
        until("the token is renewed with the new secret alone", lambda: _issued_for(stand, new["generation"]) > issued)
        check(True, "and the token was renewed once more without it")
        stand.end_load()
        out, err = load.communicate(timeout=LIMIT)
    finally:
        load.kill()
    if not out.strip():
        raise Broken(f"the load printed no result:\n{err}")
    result = json.loads(out)
    check(set(result["credentials"]) == {"1", str(new["generation"])}, "the calls went on through the change", result)
    check(result["sent"] > 10 and result["failed"] == 0, f"{result['sent']} calls, {result['failed']} failed", result)


def _issued_for(stand: Stand, generation: int) -> int:
    return stand.oauth("GET", "/state")["issuedFor"].get(str(generation), 0)
