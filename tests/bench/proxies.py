"""The proxies, each doing the same job on one worker, and what stands around them."""
import json
import socket
import subprocess
import time

from processes import is_free, start, stop, wait_for_port
from settings import DEBIAN, FOLDER, LOAD_CPU, PINGORA, PORTS, PROXY_CPU, RIG, RUN, SIDECAR, TLS, filled, port

TOKEN = "upstream-secret-token-0123456789abcdef"
COOKIES = ["sid", "csrf"]


def surroundings(rotate=None):
    """Starts the upstreams and the operator. The operator gives out another token every so many milliseconds."""
    busy = [number for number in PORTS.values() if not is_free(number)]
    if busy:
        raise RuntimeError(f"port {busy[0]} is taken, perhaps by an earlier run; end that, or set MCPAUTH_BENCH_PORT")
    RUN.mkdir(parents=True, exist_ok=True)
    subprocess.run([RIG, "certificates", TLS], check=True)
    folder = _folder("upstream")
    (folder / "upstream.conf").write_text(filled((FOLDER / "upstream.conf").read_text(), RUN=folder))
    (folder / "servers.json").write_text(json.dumps(_servers()))
    if (DEBIAN / "usr/sbin/nginx").exists():
        nginx = [str(DEBIAN / "usr/sbin/nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "upstream.conf")]
        start(nginx, LOAD_CPU, log=folder / "nginx.log")
        wait_for_port(PORTS["UP_PLAIN"])
    start([RIG, "upstream", "--port", str(PORTS["UP_RIG"]), "--tls-port", str(PORTS["UP_RIG_TLS"]), "--folder", str(TLS)], LOAD_CPU, log=folder / "rig.log")
    operator = [RIG, "operator", "--port", str(PORTS["OPERATOR"]), "--folder", str(TLS), "--servers", str(folder / "servers.json")]
    start(operator + (["--rotate", str(rotate)] if rotate else []), LOAD_CPU, log=folder / "operator.log")
    for name in ("UP_RIG", "UP_RIG_TLS", "OPERATOR"):
        wait_for_port(PORTS[name])


def relay(name, to):
    """The stand-in for LiteLLM in front of an outbound half."""
    process = start([RIG, "relay", "--port", str(PORTS[name]), "--to", f"127.0.0.1:{to}"], LOAD_CPU, log=RUN / f"{name}.log")
    wait_for_port(PORTS[name], process)


def command(name, litellm="UP_PLAIN"):
    """Arguments and environment of a proxy, whose files are put in place."""
    folder, at = _folder(name), port(name)
    match name:
        case "copy":
            pairs = {at: "UP_PLAIN", at + 1: "UP_RIG"}
            return [RIG, "copy", *(f"127.0.0.1:{here}=127.0.0.1:{PORTS[there]}" for here, there in pairs.items())], {}
        case "chain-copy":
            pairs = {at: PORTS["RELAY_COPY"], at + 1: PORTS["UP_PLAIN"]}
            return [RIG, "copy", *(f"127.0.0.1:{here}=127.0.0.1:{there}" for here, there in pairs.items())], {}
        case "nginx":
            (folder / "nginx.conf").write_text(filled((FOLDER / "nginx.conf").read_text(), RUN=folder, PORT=at))
            return [binary(name), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")], {}
        case "haproxy":
            (folder / "haproxy.cfg").write_text(filled((FOLDER / "haproxy.cfg").read_text(), PORT=at))
            return [binary(name), "-db", "-f", str(folder / "haproxy.cfg")], {}
        case "pingora":
            (folder / "pingora.yaml").write_text(filled((FOLDER / "pingora.yaml").read_text()))
            upstreams = (PORTS[up] for up in ("UP_PLAIN", "UP_TLS", "UP_H2", "UP_RIG", "UP_RIG_TLS"))
            return [binary(name), str(at), str(folder / "pingora.yaml"), *map(str, upstreams)], {}
    (folder / "token").write_text("the-pods-own-token")
    # As if an earlier process of the sidecar had made it: the rig sends it as LiteLLM would.
    (folder / "outbound-secret").write_text("dGhlIHNlY3JldCBvZiB0ZXN0cywgbm90IGZvciBwb2Q")
    # The authority of an earlier run: a sidecar that begins in a new pod has none.
    (folder / "operator-ca.pem").unlink(missing_ok=True)
    return [SIDECAR, "serve"], {
        "MCPAUTH_OUTBOUND": f"127.0.0.1:{at}",
        "MCPAUTH_INBOUND": f"127.0.0.1:{at + 1}",
        "MCPAUTH_HEALTH": f"127.0.0.1:{at + 2}",
        "MCPAUTH_LITELLM": f"127.0.0.1:{PORTS[litellm]}",
        "MCPAUTH_ROUTES": "[]",
        "MCPAUTH_OVERLAY": str(folder / "overlay.yaml"),
        "MCPAUTH_OPERATOR": f"https://localhost:{PORTS['OPERATOR']}",
        "MCPAUTH_OPERATOR_CA": (TLS / "ca.pem").read_text(),
        "MCPAUTH_TOKEN_FILE": str(folder / "token"),
        "MCPAUTH_POD_NAMESPACE": "bench",
        "MCPAUTH_POD_NAME": "bench",
        "MCPAUTH_POD_UID": "bench",
    }


def started(name, litellm="UP_PLAIN", cpu=PROXY_CPU):
    argv, environment = command(name, litellm)
    process = start(argv, cpu, environment, RUN / name / "log")
    wait_for_port(port(name), process)
    if SIDECAR in argv:
        wait_until_ready(name, process)
    return process


def wait_until_ready(name, process):
    """Until a sidecar serves with both halves."""
    wait_for_port(port(name), process)
    # Users can connect once it has seen that LiteLLM listens.
    wait_for_port(port(name) + 1, process)
    wait_for_token(name)


def most_connections(files):
    """Connections that a half of the sidecar takes with this limit of open files: `Bounds::within` of its `server/bounds.rs`."""
    return min(10_000, (files - min(512, files // 2)) // 4)


def wait_for_token(name):
    for _ in range(200):
        status, _body = exchange(f"127.0.0.1:{port(name)}", "/rig/mcp")
        if status == 200:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{name} got no token from the operator; see {RUN / name / 'log'}")


def binary(name):
    return {
        "copy": RIG,
        "sidecar": SIDECAR,
        "nginx": str(DEBIAN / "usr/sbin/nginx"),
        "haproxy": str(DEBIAN / "usr/sbin/haproxy"),
        "pingora": PINGORA,
    }[name]


def target(name, kind, last):
    """Where the load goes. What is no HTTP proxy has a port for each upstream."""
    if name == "direct":
        at = PORTS["UP_RIG" if kind == "rig" else "UP_PLAIN"]
    else:
        at = port(name) + (1 if name == "copy" and kind == "rig" else 0)
    return f"127.0.0.1:{at}/{kind}/{last}"


def exchange(authority, path, context=None):
    """One call of a tool on a connection of its own: status and body."""
    argv = [RIG, "load", *(["--context", context] if context else []), "request", f"{authority}{path}"]
    request = subprocess.run(argv, check=True, capture_output=True).stdout.replace(b"Connection: keep-alive", b"Connection: close")
    host, at = authority.split(":")
    with socket.create_connection((host, int(at)), 5) as stream:
        stream.settimeout(10)
        stream.sendall(request)
        answer = b""
        while chunk := stream.recv(1 << 16):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        # One chunk: these answers are short.
        body = body.partition(b"\r\n")[2].partition(b"\r\n0\r\n")[0]
    return int(answer[9:12] or 0), body


def sealed_context():
    """What the sidecar's inbound half makes of the user's cookies."""
    status, body = exchange(f"127.0.0.1:{port('sidecar') + 1}", "/context")
    if status != 200 or len(body) < 40:
        raise RuntimeError(f"the sidecar's inbound half sealed no context: {status} {body[:200]!r}")
    return body.decode()


def protocol_of(name, kind, context):
    """The HTTP version that reaches the upstream, once it is sure that the proxy does its job: sets the token, keeps
    two cookies of four, and passes no credential of LiteLLM's. None if it has no such upstream."""
    status, body = exchange(f"127.0.0.1:{port(name)}", f"/{kind}/echo", context)
    if status != 200:
        return None
    seen = json.loads(body)
    headers = {}
    for header, value in seen["headers"]:
        headers.setdefault(header, []).append(value)
    cookies = sorted(pair.strip() for value in headers.get("cookie", []) for pair in value.split(";"))
    expected = ["csrf=fedcba9876543210", "sid=0123456789abcdef0123456789abcdef"]
    wrong = [
        what
        for what, right in {
            "the token": headers.get("authorization") == [f"Bearer {TOKEN}"],
            "the cookies": cookies == expected,
            "the key for LiteLLM": "x-litellm-api-key" not in headers,
            "the sealed context": "mcpauth-context" not in headers,
            "the session": headers.get("mcp-session-id") is not None,
            "the body": seen["length"] > 100,
        }.items()
        if not right
    ]
    if wrong:
        raise RuntimeError(f"{name} does not do the job: {', '.join(wrong)} in {headers}")
    return seen["version"]


def _servers():
    def server(name, url):
        route = {"resource": name, "server": name, "url": url, "transport": "StreamableHttp", "cookies": COOKIES, "audit": {}}
        if url.startswith("https"):
            route["caBundle"] = (TLS / "ca.pem").read_text()
        return {**route, "credential": {"kind": "bearer", "id": name, "token": TOKEN}}

    urls = {
        "h2": f"https://localhost:{PORTS['UP_H2']}/mcp",
        "plain": f"http://127.0.0.1:{PORTS['UP_PLAIN']}/",
        "rig": f"http://127.0.0.1:{PORTS['UP_RIG']}/",
        "righ2": f"https://localhost:{PORTS['UP_RIG_TLS']}/",
        "tls": f"https://localhost:{PORTS['UP_TLS']}/mcp",
    }
    return [server(name, url) for name, url in sorted(urls.items())]


def _folder(name):
    folder = RUN / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
