#!/usr/bin/env python3
"""A stand-in for LiteLLM's process: it listens where it is told to, says that it is ready, calls the MCP server of its
configuration once, and starts a process that leaves its session. What it saw goes into the file REPORT."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
called = None
wrapper = open(os.environ["CONFIG_FILE_PATH"]).read() if "CONFIG_FILE_PATH" in os.environ else "include: []"
for included in json.loads(wrapper.removeprefix("include: ")):
    text = open(included).read()
    found = re.search(r"http://127\.0\.0\.1:\d+/tools/mcp", text)
    if found:
        secret = re.search(r'"mcpauth-outbound-secret": "([\w-]+)"', text)[1]
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
        request = urllib.request.Request(found[0], body, {"Content-Type": "application/json", "Mcpauth-Outbound-Secret": secret})
        called = urllib.request.urlopen(request).read().decode()
port = int(sys.argv[sys.argv.index("--port", -2) + 1]) if "--port" in sys.argv[-2:] else int(os.environ.get("PORT", "0"))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = {"status": "healthy", "litellm_version": os.environ.get("STATED_VERSION", "1.110.2")}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
report = {"pid": os.getpid(), "sleeper": sleeper.pid, "parent": os.getppid(), "words": sys.argv[1:], "called": called,
          "environment": dict(os.environ)}
with open(os.environ["REPORT"] + ".new", "w") as file:
    json.dump(report, file)
os.rename(os.environ["REPORT"] + ".new", os.environ["REPORT"])
server.serve_forever()
