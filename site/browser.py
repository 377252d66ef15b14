#!/usr/bin/env python3
"""browser.py SITE [PICTURES]: looks at each page of the site in a headless Chromium as on a phone and on a desktop: none may be wider
than the screen, and none may write an error to the browser's console. It begins with a page of its own that is both, so that a
browser that shows nothing passes nothing. With the folder PICTURES it takes a picture there of each page on each screen, for a
person to look at. `site/browser` says where Chromium is.
"""

import asyncio
import base64
import functools
import http.server
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import aiohttp

# Width and height in pixels, and whether it is a phone.
SCREENS = {"phone": (390, 844, True), "desktop": (1440, 900, False)}
# Of what only a page that never ends takes, in seconds.
LIMIT = 60
BAD_PAGE = "<!doctype html><title>bad</title><div id=wide style='width:3000px'>wide</div><script>console.error('seen')</script>"
# The element that reaches furthest to the right, but for those that scroll by themselves.
WIDEST = """(() => {
  const width = document.documentElement.clientWidth;
  const scrolls = element => element && element !== document.documentElement &&
    (/auto|scroll|hidden/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  let widest = null, right = width + 0.5;
  for (const element of document.querySelectorAll("body *")) {
    const edge = element.getBoundingClientRect().right;
    if (edge > right && !scrolls(element.parentElement)) { widest = element; right = edge; }
  }
  const name = widest && widest.tagName.toLowerCase() + (widest.id ? "#" + widest.id : "") + ": " + widest.textContent.trim().slice(0, 60);
  return {width: document.documentElement.scrollWidth, widest: name};
})()"""


class Browser:
    """Chromium by its DevTools protocol, with one page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.number = 0
        self.answers: dict[int, asyncio.Future] = {}
        self.errors: list[str] = []
        self.loaded = asyncio.Event()
        self.width = 0

    async def show_on(self, screen: str) -> None:
        self.width, height, is_phone = SCREENS[screen]
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=self.width, height=height, deviceScaleFactor=1, mobile=is_phone
        )

    async def picture(self, file: Path) -> None:
        shot = await self.ask("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    async def read(self) -> None:
        async for message in self.socket:
            told = json.loads(message.data)
            if answer := self.answers.pop(told.get("id"), None):
                answer.set_result(told)
            self.note(told.get("method"), told.get("params", {}))

    def note(self, method: str | None, told: dict) -> None:
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(argument.get("value", argument.get("description"))) for argument in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def ask(self, method: str, **params) -> dict:
        self.number += 1
        answer = self.answers[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        told = await asyncio.wait_for(answer, LIMIT)
        if "error" in told:
            sys.exit(f"error: Chromium refuses {method}: {told['error']['message']}")
        return told["result"]

    async def problems(self, url: str) -> list[str]:
        """What is wrong with the page at this URL."""
        self.errors.clear()
        self.loaded.clear()
        await self.ask("Page.navigate", url=url)
        await asyncio.wait_for(self.loaded.wait(), LIMIT)
        # Twice drawn, the page is laid out and its scripts have run.
        drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        await self.ask("Runtime.evaluate", expression=drawn, awaitPromise=True)
        seen = (await self.ask("Runtime.evaluate", expression=WIDEST, returnByValue=True))["result"]["value"]
        found = [f"an error in the console: {error}" for error in self.errors]
        if seen["width"] > self.width:
            found.append(f"{seen['width']} px wide on a screen of {self.width} px, by {seen['widest'] or 'what is not seen'}")
        return found


async def look(site: Path, origin: str, debugger: str, pictures: Path | None) -> int:
    async with aiohttp.ClientSession() as session:
        # Pages of the site may be large, and so may what Chromium tells of them.
        async with session.ws_connect(debugger, max_msg_size=0) as socket:
            browser = Browser(socket)
            reading = asyncio.create_task(browser.read())
            for domain in ("Page", "Runtime", "Log"):
                await browser.ask(f"{domain}.enable")
            pages = sorted(path.relative_to(site) for path in site.rglob("*.html"))
            failed = 0
            for screen in SCREENS:
                await browser.show_on(screen)
                bad = await browser.problems(f"{origin}/{quoted(BAD_PAGE)}")
                if len(bad) != 2:
                    sys.exit(f"error: a page that is too wide and writes an error to the console should be seen as both; seen: {bad}")
                for page in pages:
                    for problem in await browser.problems(f"{origin}/{page}"):
                        failed += 1
                        print(f"{page} on a {screen}: {problem}", file=sys.stderr)
                    if pictures:
                        await browser.picture(pictures / f"{str(page).removesuffix('.html').replace('/', '-')}.{screen}.png")
            reading.cancel()
    if not pages:
        sys.exit(f"error: {site} has no pages: run `make site` first")
    widths = " and ".join(str(width) for width, _, _ in SCREENS.values())
    print(f"{len(pages)} pages in Chromium at {widths} px: {failed or 'no'} problems")
    return failed


def quoted(page: str) -> str:
    """The path at which the server of this file answers with the bad page."""
    return f"made-up-{len(page)}.html"


class Pages(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == f"/{quoted(BAD_PAGE)}":
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(BAD_PAGE.encode())
        elif self.path == "/favicon.ico":
            # Browsers ask for it by themselves.
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_words) -> None:
        pass


async def chromium(profile: str) -> tuple[asyncio.subprocess.Process, str]:
    """Chromium, and the address of its page's debugger."""
    options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu"]
    # Chromium's own sandbox takes rights that root in a container lacks.
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    # It writes a lot that is of no use here.
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    process = await asyncio.create_subprocess_exec(os.environ["MCPAUTH_SITE_CHROMIUM"], *options, "about:blank", **quiet)
    told = Path(profile) / "DevToolsActivePort"
    for _ in range(LIMIT * 10):
        if told.exists() and told.read_text().strip():
            break
        if process.returncode is not None:
            sys.exit(f"error: {os.environ['MCPAUTH_SITE_CHROMIUM']} ended with {process.returncode}")
        await asyncio.sleep(0.1)
    else:
        sys.exit(f"error: Chromium did not start within {LIMIT} s")
    port = told.read_text().split()[0]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [target for target in await answer.json() if target["type"] == "page"]
    return process, pages[0]["webSocketDebuggerUrl"]


async def main() -> int:
    site = Path(sys.argv[1]).resolve()
    pictures = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="mcp-auth-site.", ignore_cleanup_errors=True) as profile:
        process, debugger = await chromium(profile)
        try:
            return await look(site, f"http://127.0.0.1:{server.server_port}", debugger, pictures)
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    sys.exit(min(asyncio.run(main()), 1))
