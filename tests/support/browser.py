"""A headless Chromium, driven through a pipe by Chrome's DevTools protocol."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page:
    """One tab."""

    def __init__(self, read, write):
        self._read, self._write = read, write
        self._number = 0
        self._session = None
        self.requested = []  # URLs
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.call("Network.enable")
        self.call("Page.enable")

    def call(self, method, **params):
        """Call a method and give its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url, *, width, dark=False):
        """Load a page in a window of so many pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=800, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.call("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def _next(self):
        message = b""
        while not message.endswith(b"\0"):
            byte = self._read.read(1)
            assert byte, "Chromium has ended"
            message += byte
        message = json.loads(message[:-1])
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        return message


@contextmanager
def browser(profile):
    """Start Chromium with a new profile in a folder, and give a page."""
    to_it, our_end = os.pipe()
    from_it, its_end = os.pipe()
    options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
    command = f'exec "$0" {options} --user-data-dir="$1" 3<&{to_it} 4>&{its_end}'
    process = subprocess.Popen(
        ["bash", "-c", command, CHROMIUM, str(profile)],
        pass_fds=(to_it, its_end),
        stderr=subprocess.DEVNULL,
    )
    os.close(to_it)
    os.close(its_end)
    try:
        with os.fdopen(from_it, "rb") as read, os.fdopen(our_end, "wb") as write:
            yield Page(read, write)
    finally:
        process.terminate()
        process.wait()
