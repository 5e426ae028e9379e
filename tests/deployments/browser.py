"""A headless Chromium, driven over its DevTools protocol: what a page looks like and says to someone who uses it."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_backend import wait_until
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars",
         "--disable-dev-shm-usage", "--remote-debugging-port=0")  # fmt: skip


class Page:
    """A tab. `problems` collects what the page complained of: exceptions, console errors, blocked resources."""

    def __init__(self, socket):
        self._socket, self._ids = socket, itertools.count(1)
        self.problems: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command's result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._notice(message)

    def _notice(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"].get("exception", {}).get("description")))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])

    def eval(self, expression: str) -> Any:
        """The value of a JavaScript expression, under the page's own security policy; promises are awaited."""
        how = {"returnByValue": True, "awaitPromise": True, "allowUnsafeEvalBlockedByCSP": False}
        result = self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        wait_until(lambda: self.eval(f"Boolean({expression})"))

    def text(self, selector: str) -> str:
        """The text that is shown in the first element."""
        return self.eval(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def type(self, text: str) -> None:
        """As if typed, into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key pressed and released; modifiers: 8 is Shift."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "ArrowLeft": 37}
        event = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": codes[key],
                 "modifiers": modifiers}  # fmt: skip
        text = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """The size of the window in CSS pixels."""
        how = {"deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **how)

    def prefer(self, **features: str) -> None:
        """Media features: prefers-color-scheme, prefers-reduced-motion (with _ for -)."""
        pairs = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=pairs)

    def screenshot(self, path: Path | str) -> None:
        """A PNG of what the window shows."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browsing(url: str) -> Iterator[Page]:
    """A tab that shows `url`, in a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        port = Path(profile, "DevToolsActivePort")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: port.is_file() and port.read_text().count("\n") >= 1, 30)
            with connect(_target(int(port.read_text().split()[0])), max_size=None) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    page.call(f"{domain}.enable")
                page.resize(1280, 800)
                page.call("Page.navigate", url=url)
                page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
                yield page
        finally:
            browser.terminate()
            browser.wait(10)


def _target(port: int) -> str:
    """The WebSocket of the first tab."""
    import httpx

    found: list[str] = []

    def listed() -> bool:
        tabs = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
        found[:] = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
        return bool(found)

    wait_until(listed)
    return found[0]
