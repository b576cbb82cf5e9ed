"""A headless Chromium driven over a pipe: what a page asks for, says on its console, measures and prints."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


def find_chromium() -> str:
    """Its path; skips the test where there is none, but not in CI."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        said = "no chromium on the PATH: apt-get install --no-install-recommends chromium"
        pytest.fail(said) if "CI" in os.environ else pytest.skip(said)
    return found


class Browser:
    """One tab. `events` has all that it told since the last `open_page`: (method, parameters)."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._rest, self._asked = commands, answers, b"", 0
        self.events: list[tuple[str, Any]] = []
        self._session: dict[str, str] = {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], SECONDS)[0], f"chromium said nothing for {SECONDS} s"
            block = os.read(self._answers, 1 << 16)
            assert block, "chromium has ended"
            self._rest += block
        message, self._rest = self._rest.split(b"\0", 1)
        said = json.loads(message)
        if "method" in said:
            self.events.append((said["method"], said["params"]))
        return said

    def ask(self, method: str, **parameters: Any) -> Any:
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (said := self._read()).get("id") != self._asked:
            pass
        assert "error" not in said, said
        return said["result"]

    def open_page(
        self, path: Path, *, width: int = 1200, height: int = 800, media: str = "screen", dark: bool = False
    ) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            self._read()

    def evaluate(self, expression: str) -> Any:
        said = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def requests(self) -> list[str]:
        return [said["request"]["url"] for method, said in self.events if method == "Network.requestWillBeSent"]

    def complaints(self) -> list[Any]:
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [said for method, said in self.events if method in kinds]

    def screenshot(self, path: Path, *, height: int | None = None) -> None:
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        said = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(said["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """`profile` is a new empty folder."""
    chromium = find_chromium()
    to_read, commands = os.pipe()
    answers, to_write = os.pipe()
    redirected = f'exec "$@" 3<&{to_read} 4>&{to_write}'  # the descriptors that Chromium talks on
    process = subprocess.Popen(
        ["bash", "-c", redirected, "bash", chromium, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(to_read, to_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(commands, answers)
    finally:
        process.terminate()
        process.wait(30)
        os.close(commands)
        os.close(answers)
