"""Headless Chromium, driven by its DevTools protocol: what a person does with a page, and what is then on it.

https://chromedevtools.github.io/devtools-protocol
"""

import asyncio
import base64
import itertools
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

START_S = 60


def executable() -> str | None:
    """Return Chromium's program, or None."""
    return next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


class Page:
    """A tab.

    Attributes:
        requested: Addresses of everything that the page asked for.
        said: What it wrote to the console, and errors that nobody caught.
    """

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.requested: list[str] = []
        self.said: list[str] = []

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        await self._connection.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._connection.receive_json(timeout=60)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    async def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        done = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, expression: str) -> None:
        """Return when an expression is true."""
        end = time.monotonic() + START_S
        while not await self.value(expression):
            assert time.monotonic() < end, f"it never became true: {expression}"
            await asyncio.sleep(0.05)

    async def press(self, key: str, *, with_control: bool = False) -> None:
        """Press a key and let it go."""
        code = {"Enter": 13, "Tab": 9}[key]
        typed = {"text": "\r"} if key == "Enter" and not with_control else {}  # a button is pressed by what is typed
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                modifiers=2 if with_control else 0, **(typed if kind == "keyDown" else {}),
            )  # fmt: skip

    async def type(self, text: str) -> None:
        """Type a text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def picture(self, path: Path) -> bytes:
        """Write a picture of the whole page as PNG, and return it."""
        done = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(done["data"]))
        return path.read_bytes()

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif message.get("method") in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}:
            self.said.append(str(parameters))


@asynccontextmanager
async def page(program: str, folder: Path, url: str, *, dark: bool = False, width: int = 900) -> AsyncIterator[Page]:
    """Open a page in a browser that reaches nothing but this machine."""
    process = subprocess.Popen(
        [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--window-size={width},1100",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(folder / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                address = next(one["webSocketDebuggerUrl"] for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as connection:
                opened = Page(connection)
                for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
                    await opened.call(f"{domain}.enable")
                scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                await opened.call("Emulation.setEmulatedMedia", features=[scheme])
                await opened.call("Page.navigate", url=url)
                await opened.until("document.readyState === 'complete' && location.protocol === 'http:'")
                yield opened
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        process.wait()


async def _port(file: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError, IndexError):
            return file.read_text(encoding="utf-8").splitlines()[0]
        await asyncio.sleep(0.05)
    raise AssertionError("Chromium did not start")
