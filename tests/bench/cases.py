"""What is measured. Each case measures one proxy once and tells a row of figures; rounds take the proxies in turn."""
import json
import os
import re
import resource
import socket
import subprocess
import time

import proxies
from memory_limit import MemoryLimit
from processes import Window, cpu_seconds, pss_kb, start, stop
from settings import DEBIAN, LOAD_CPU, PORTS, PROXY_CPU, RIG, RUN, library_path, port

CONNECTIONS = 64
STREAMS = 200
EVENTS_PER_SECOND = 20
# Connections that wait, and the memory that injection gives a sidecar (`sidecar.resources` of the chart), in bytes.
CROWD = 10_000
INJECTED_MEMORY = 256 << 20


class Cases:
    def __init__(self, running, context, seconds):
        self.running, self.context, self.seconds = running, context, seconds

    def closed(self, name, kind):
        """64 connections, each with its next request as soon as it has its answer."""
        return self._closed(self.running.get(name), proxies.target(name, kind, "mcp"))

    def inbound(self, name):
        """The sidecar's inbound half alone: it seals."""
        at = port(name) + (1 if name == "sidecar" else 0)
        return self._closed(self.running[name], f"127.0.0.1:{at}/plain/mcp", context=False)

    def chain(self, name):
        """Inbound half, stand-in for LiteLLM, outbound half: all that one call of a tool costs."""
        at = port(name) + (1 if name == "chain" else 0)
        return self._closed(self.running[name], f"127.0.0.1:{at}/plain/mcp", context=False)

    def open(self, name):
        """1,000 requests a second, whatever comes back."""
        seen, window = self._load(name, "plain", "mcp", "open", "--rate", "1000", "--seconds", str(self.seconds))
        return {"p50": seen["p50"], "p99": seen["p99"], "failed": seen["failed"], "others": window.others}

    def sse(self, name):
        """200 event streams."""
        load = self._start_load(proxies.target(name, "rig", "sse"), "sse", "--streams", str(STREAMS), "--warm-up", "2", "--seconds", str(self.seconds + 1))
        time.sleep(2)
        with Window(self.running.get(name), PROXY_CPU) as window:
            time.sleep(self.seconds)
        seen = self._finish(load)
        per_event = window.cpu / (window.seconds * STREAMS * EVENTS_PER_SECOND)
        return {"us": 1e6 * per_event, "p50": seen["p50"], "p99": seen["p99"], "failed": seen["broken"], "others": window.others}

    def down(self, name):
        """Answers of 10 MB, four at a time."""
        seen, window = self._load(name, "rig", "big", "large", "--seconds", str(self.seconds))
        return {"rate": seen["megabytes_per_second"], "failed": seen["failed"], "others": window.others}

    def up(self, name):
        """Uploads of 10 MB, four at a time."""
        seen, window = self._load(name, "rig", "sink", "large", "--up", "--seconds", str(self.seconds))
        return {"rate": seen["megabytes_per_second"], "failed": seen["failed"], "others": window.others}

    def memory(self, name):
        """A process of its own: idle, and with 1,000 connections that had a request each and wait for the next one."""
        process = proxies.started(name)
        try:
            time.sleep(1.5)
            idle = pss_kb(process.pid)
            load = self._start_load(proxies.target(name, "plain", "mcp"), "idle", "--connections", "1000", stdin=subprocess.PIPE)
            opened = json.loads(load.stdout.readline())
            # Once they have been idle for a moment: that is how connections spend most of their time.
            time.sleep(4)
            busy = pss_kb(process.pid)
            load.stdin.close()
            load.wait(10)
        finally:
            stop(process)
        return {"idle": idle / 1024, "thousand": busy / 1024, "failed": opened["failed"]}

    def crowd(self, name):
        """A sidecar with the memory that injection gives it, and 10,000 connections that had a request each, wait, and have
        another one: in the inbound half, and where the limit of open files lets fewer in, in the outbound half too."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        argv, environment = proxies.command(name, "UP_PLAIN")
        with MemoryLimit(INJECTED_MEMORY) as limit:
            if limit is None:
                return {"held": None}
            # As container runtimes begin: the sidecar raises its limit itself.
            limited = ["sh", "-c", 'ulimit -S -n 1024 && exec "$@"', "sh", *argv]
            process = start(limit.around(limited), PROXY_CPU, environment, RUN / name / "crowd.log")
            loads = []
            try:
                proxies.wait_until_ready(name, process)
                left = CROWD
                for half in (1, 0):
                    here = min(left, proxies.most_connections(files))
                    left -= here
                    loads += [self._crowd(f"127.0.0.1:{port(name) + half}/plain/mcp", here, half == 0)] if here else []
                # Once they have been idle for a moment: that is how connections spend most of their time.
                time.sleep(4)
                waiting = pss_kb(process.pid)
                for load in loads:
                    load.stdin.close()
                seen = [json.loads(load.stdout.readline()) for load in loads]
                peak, at_limit = limit.peak(), limit.times_at_limit()
            finally:
                for load in loads:
                    load.kill()
                    load.wait()
                stop(process)
        return {
            "held": sum(one["answered"] for one in seen),
            "wanted": CROWD,
            "limit": INJECTED_MEMORY >> 20,
            "pss": waiting / 1024,
            "peak": peak / (1 << 20) if peak is not None else None,
            "at_limit": at_limit,
            "files": files,
            "failed": sum(one["connections"] - one["answered"] for one in seen),
        }

    def _crowd(self, target, connections, with_context):
        """They are open when this returns."""
        argv = [RIG, "load", *(["--context", self.context] if with_context else []), "idle", "--again", "--connections", str(connections), target]
        raised = ["sh", "-c", 'ulimit -S -n "$(ulimit -H -n)" && exec "$@"', "sh", "taskset", "-c", LOAD_CPU, *argv]
        load = subprocess.Popen(raised, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        opened = json.loads(load.stdout.readline() or "{}")
        if opened.get("failed", 1):
            load.kill()
            raise RuntimeError(f"not all of {connections} connections had an answer: {opened}; see crowd.log in the folder bench-run of the cache")
        return load

    def start(self, name):
        """From the start of the process to the first answer, and to the first that came from the upstream."""
        argv, environment = proxies.command(name, "UP_PLAIN")
        request = subprocess.run([RIG, "load", "request", proxies.target(name, "plain", "mcp")], check=True, capture_output=True).stdout
        begun = time.perf_counter()
        process = start(argv, None, environment, RUN / name / "start.log")
        answered = passed = None
        try:
            while passed is None and time.perf_counter() - begun < 15:
                status = _status(port(name), request)
                now = 1000 * (time.perf_counter() - begun)
                if status:
                    answered = answered or now
                    passed = now if status == 200 else None
                else:
                    time.sleep(0.0005)
        finally:
            stop(process)
        return {"answered": answered, "passed": passed, "failed": int(passed is None)}

    def _closed(self, process, target, context=True):
        script = self._script(target, context)
        authority, _, path = target.partition("/")
        argv = ["taskset", "-c", LOAD_CPU, str(DEBIAN / "usr/bin/wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{self.seconds}s", "-s", script, f"http://{authority}/{path}"]
        with Window(process, PROXY_CPU) as window:
            environment = {**os.environ, "LD_LIBRARY_PATH": library_path()}
            said = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=self.seconds + 30).stdout
        number = int(re.search(r"(\d+) requests in", said)[1])
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
        return {
            "us": 1e6 * window.cpu / max(number, 1),
            "rate": number / window.seconds,
            "share": window.cpu / window.seconds,
            "failed": int(bad[1]) if bad else 0,
            "others": window.others,
        }

    def _script(self, target, context):
        """wrk sends the very request that the rig's own load sends."""
        argv = [RIG, "load", *(["--context", self.context] if context else []), "request", target]
        head, _, body = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.replace("\r\n", "\n").partition("\n\n")
        lines = [line.split(": ", 1) for line in head.split("\n")[1:]]
        script = f'wrk.method = "POST"\nwrk.body = [==[{body}]==]\n' + "".join(
            f'wrk.headers["{name}"] = [==[{value}]==]\n' for name, value in lines if name not in ("Host", "Content-Length", "Connection")
        )
        file = RUN / ("with-context.lua" if context else "without-context.lua")
        file.write_text(script)
        return str(file)

    def _load(self, name, kind, last, *args):
        with Window(self.running.get(name), PROXY_CPU) as window:
            seen = self._finish(self._start_load(proxies.target(name, kind, last), *args))
        return seen, window

    def _start_load(self, target, kind, *args, stdin=None):
        argv = ["taskset", "-c", LOAD_CPU, RIG, "load", "--context", self.context, kind, *args, target]
        return subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, text=True)

    def _finish(self, load):
        said, _ = load.communicate(timeout=self.seconds + 60)
        return json.loads(said)


def _status(at, request):
    try:
        with socket.create_connection(("127.0.0.1", at), 1) as stream:
            stream.settimeout(2)
            stream.sendall(request)
            answer = stream.recv(64)
            return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None
    except (OSError, ValueError):
        return None
