#!/usr/bin/env python3
"""A stand-in for LiteLLM's process: it listens where it is told to, says that it is ready, calls the MCP server of its
configuration once, and starts a process that leaves its session. What it saw goes into the file REPORT.

POST /call/SERVER is a user's request that makes it call this MCP server, as LiteLLM does: with the headers that the overlay
lists, and no others. POST /mcp/ passes a JSON-RPC message on to the server that the header x-mcp-servers names.

Variables break it: ENDS_WITH a code, STAYS without listening, READINESS another status, LOSES the user's context, HIDES the servers' tools.
"""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)


def includes():
    wrapper = open(os.environ["CONFIG_FILE_PATH"]).read() if "CONFIG_FILE_PATH" in os.environ else "include: []"
    return json.loads(wrapper.removeprefix("include: "))


def included():
    return [open(file).read() for file in includes()]


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def call(server, context=None, message=LIST):
    text = "".join(included())
    url = re.search(rf"http://127\.0\.0\.1:\d+/{server}/mcp", text)
    if url is None:
        return None
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    headers["mcpauth-outbound-secret"] = re.search(r'"mcpauth-outbound-secret": "([\w-]+)"', text)[1]
    request = urllib.request.Request(url[0], body, headers | ({"mcpauth-context": context} if context else {}))
    try:
        return urllib.request.urlopen(request).read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read().decode()}"


def can_be_read(pid):
    """Whether this process may read the environment and the memory of another."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment, open(f"/proc/{pid}/mem", "rb"):
            environment.read()
        return True
    except PermissionError:
        return False


def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])


print(os.environ["SAYS"], flush=True) if "SAYS" in os.environ else None
if "STAYS" in os.environ:
    signal.pause()  # never listens
if "ENDS_WITH" in os.environ:
    sleeper.kill()
    sys.exit(int(os.environ["ENDS_WITH"]))
called = call("tools")
port = int(sys.argv[sys.argv.index("--port", -2) + 1]) if "--port" in sys.argv[-2:] else int(os.environ.get("PORT", "0"))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = {"status": "healthy"}
        if "STATED_VERSION" in os.environ:
            answer["litellm_version"] = os.environ["STATED_VERSION"]
        self.answer(json.dumps(answer), int(os.environ.get("READINESS", "200")))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        context = None if os.environ.get("LOSES") == "context" else self.headers.get("mcpauth-context")
        if not self.path.startswith("/mcp/"):
            self.answer(json.dumps({"called": call(self.path.rsplit("/", 1)[1], context)}))
            return
        server, message = self.headers["x-mcp-servers"], json.loads(body)
        if message["method"] == "tools/list" and os.environ.get("HIDES") == "tools" and server == "tools":
            self.answer(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}}))
        else:
            self.answer(call(server, context, message))

    def answer(self, body, status=200):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
report = {"pid": os.getpid(), "sleeper": sleeper.pid, "parent": os.getppid(), "words": sys.argv[1:], "called": called,
          "environment": dict(os.environ)}
if "CONFIG_FILE_PATH" in os.environ:
    processes = {"sleeper": sleeper.pid, "supervisor": os.getppid(), "mcp-auth": parent(os.getppid())}
    report["can_read"] = {name: can_be_read(pid) for name, pid in processes.items()}
    # The overlay is included last.
    report["folder"] = oct(os.stat(os.path.dirname(includes()[-1])).st_mode & 0o777)
with open(os.environ["REPORT"] + ".new", "w") as file:
    json.dump(report, file)
os.rename(os.environ["REPORT"] + ".new", os.environ["REPORT"])
server.serve_forever()
