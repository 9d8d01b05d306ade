"""A headless Chromium, spoken to in its own protocol: what a page looks like, and what it says."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-port=0",
)


def find_browser() -> str | None:
    """Returns a Chromium of this machine, None without."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser(folder: Path):
    """Yields the address of a browser that was started with a profile of its own."""
    process = subprocess.Popen(
        [str(find_browser()), *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        # It says where it listens as soon as it does.
        line = next(line for line in process.stderr if line.startswith("DevTools listening on "))
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


class Tab:
    """One page. Everything it complains of is kept in `complaints`."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.complaints: list[str] = []
        self.session: str | None = None
        self._numbers = itertools.count(1)
        self._loaded = False

    async def call(self, method: str, **params):
        """Sends a command and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        await self.socket.send_json(message | ({"sessionId": self.session} if self.session else {}))
        while True:
            answer = await self.socket.receive_json()
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _note(self, event) -> None:
        method, params = event.get("method"), event.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if method in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(str(params))
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params))

    async def open(self, url: str) -> None:
        """Loads a page to its end."""
        self._loaded = False
        await self.call("Page.navigate", url=url)
        while not self._loaded:
            self._note(await self.socket.receive_json())

    async def evaluate(self, expression: str):
        """Returns the value of an expression of JavaScript."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def look(self, width: int, scheme: str, height: int = 900) -> None:
        """Sets the width of the screen and the colour scheme its user prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self, file: Path) -> None:
        """Writes the whole page as a PNG file."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))


def visit(url: str, visitor, folder: Path):
    """Opens a page in a new browser and returns what ``await visitor(tab)`` does."""

    async def run(address: str):
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(address, max_msg_size=0, timeout=aiohttp.ClientWSTimeout()) as socket,
        ):
            tab = Tab(socket)
            target = await tab.call("Target.createTarget", url="about:blank")
            attached = await tab.call(
                "Target.attachToTarget", targetId=target["targetId"], flatten=True
            )
            tab.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                await tab.call(f"{domain}.enable")
            await tab.open(url)
            return await visitor(tab)

    with browser(folder) as address:
        return asyncio.run(run(address))
