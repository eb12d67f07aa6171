"""A headless Chromium, driven over a pipe by its DevTools protocol; nothing to install beside it.

https://chromedevtools.github.io/devtools-protocol: messages are JSON ended by a zero byte, read
by the browser from file descriptor 3 and written to 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PATIENCE = 180.0
"""Seconds to wait for an answer: machines that run tests can be busy."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """The Chromium of ``STEERKIT_BROWSER``, or the first one on the path."""
    named = os.environ.get("STEERKIT_BROWSER")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of one browser; :attr:`complaints` is what its console and its log said."""

    def __init__(self, program: str, profile: Path) -> None:
        its_read, self._write = os.pipe()
        self._read, its_write = os.pipe()
        # out of the way of 3 and 4, where the browser expects them
        to_browser, from_browser = (
            fcntl.fcntl(n, fcntl.F_DUPFD, 10) for n in (its_read, its_write)
        )
        self.complaints: list[str] = []
        self._number, self._rest, self._session = 0, b"", None
        self._loaded = False
        words = [
            program,
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-sandbox",  # tests may run as root, on files that they made
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *words],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in (its_read, its_write, to_browser, from_browser):
            os.close(number)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._session = None
            self._call("Browser.close", patience=5.0)
        except (OSError, TimeoutError):
            self._process.kill()
        self._process.wait(10)
        os.close(self._write)
        os.close(self._read)

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Show a file in a window of ``width`` CSS pixels, a phone's where it is narrow."""
        phone = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints.clear()
        self._loaded = False
        self._call("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + PATIENCE
        while not self._loaded:
            self._receive(until)
        # everything is decoded and laid out before anybody looks
        self.run("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise ValueError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, top: int = 0, height: int | None = None) -> Path:
        """A PNG of the page from ``top`` on, in CSS pixels; to its end by default."""
        width, whole = self.run(
            "[document.documentElement.clientWidth, document.documentElement.scrollHeight]"
        )
        clip = {
            "x": 0,
            "y": top,
            "width": width,
            "height": whole - top if height is None else min(height, whole - top),
            "scale": 1,
        }
        shot = self._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def print(self, path: Path) -> Path:
        """The page as a PDF, as a printer would get it."""
        made = self._call("Page.printToPDF", preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(made["data"]))
        return path

    def _call(
        self, method: str, *, patience: float = PATIENCE, **parameters: Any
    ) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + patience
        while True:
            found = self._receive(until)
            if found.get("id") == self._number:
                if "error" in found:
                    raise ValueError(f"{method}: {found['error']}")
                return found["result"]

    def _receive(self, until: float) -> dict[str, Any]:
        """The next message; what the console says is noted on the way."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(until - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser did not answer")
            read = os.read(self._read, 1 << 20)
            if not read:
                raise OSError("the browser went away")
            self._rest += read
        raw, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(raw)
        what, facts = message.get("method"), message.get("params", {})
        if what == "Page.loadEventFired":
            self._loaded = True
        elif what == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"]))
        elif what == "Runtime.consoleAPICalled":
            said = [str(a.get("value", a.get("description"))) for a in facts["args"]]
            self.complaints.append(f"{facts['type']}: {' '.join(said)}")
        elif what == "Log.entryAdded":
            entry = facts["entry"]
            self.complaints.append(f"{entry['level']}: {entry['text']}")
        return message
