"""Firefox without a window as an OHTTP client that others wrote.

Mozilla's Oblivious HTTP channel (nsIObliviousHttpService; Rust crates ohttp and bhttp) is reached
from privileged JavaScript, and that through the Marionette protocol: JSON with a length in front,
on a loopback socket. Its Python driver drags in five packages and is declared inactive, and
geckodriver is in no stable Debian, so the few commands that are needed are spoken here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START_S = 180.0
_ANSWER_S = 120.0

# No connection leaves this machine: all but loopback goes to a proxy that does not exist.
_PREFS = {
    "marionette.port": 0,
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.failover_direct": False,
    "network.proxy.allow_bypass": False,
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
}

# One exchange through the module that Firefox's own features use. The observer reads of the relay's
# response what that module keeps to itself.
_EXCHANGE = """
const [relay, target, config, method, headers, body] = arguments;
const { ObliviousHTTP } = ChromeUtils.importESModule(
  "resource://gre/modules/ObliviousHTTP.sys.mjs"
);
const told = {};
const observer = (channel) => {
  channel.QueryInterface(Ci.nsIHttpChannel);
  if (channel.URI.spec == relay) {
    told.outerStatus = channel.responseStatus;
    told.outerType = channel.getResponseHeader("content-type");
  }
};
Services.obs.addObserver(observer, "http-on-examine-response");
try {
  const bytes = Uint8Array.from(atob(config), (character) => character.charCodeAt(0));
  const { signal } = new AbortController();
  const answer = await ObliviousHTTP.ohttpRequest(
    relay, bytes, target, { method, headers, body, signal }
  );
  if (answer.headers) {
    told.status = answer.status;
    told.headers = Object.fromEntries(answer.headers);
    told.content = await answer.blob().text();
  }
} finally {
  Services.obs.removeObserver(observer, "http-on-examine-response");
}
return told;
"""
_RUN = """
const [parameters, done] = arguments;
(async function () { %s }).apply(null, parameters)
  .then((value) => done({ value }), (error) => done({ error: String(error) }));
"""


def find_firefox() -> str | None:
    """The path of an installed Firefox, or None."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


@dataclass(frozen=True, slots=True)
class Answer:
    """What Firefox made of one exchange.

    Attributes:
        outer_status, outer_type: Of the relay's response.
        status: Of the response that Firefox opened; None where it opened none.
        headers, content: Of the opened response.
    """

    outer_status: int
    outer_type: str
    status: int | None
    headers: dict[str, str]
    content: str


class Firefox:
    """One browser process on a profile of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        """Start and open a session; `folder` holds the profile and what Firefox wrote."""
        profile = folder / "profile"
        profile.mkdir(parents=True)
        (profile / "user.js").write_text(
            "".join(
                f"user_pref({json.dumps(key)}, {json.dumps(value)});\n"
                for key, value in _PREFS.items()
            ),
            encoding="utf-8",
        )
        with (folder / "firefox.log").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(program, "--headless", "--marionette", "--remote-allow-system-access"),
                    *("--no-remote", "--profile", str(profile)),
                ],
                # A home of its own: Firefox refuses one that belongs to somebody else.
                env={**os.environ, "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._count = 0
        try:
            self._socket = self._connect(profile / "MarionetteActivePort")
            self._stream = self._socket.makefile("rb")
            self._receive()  # its greeting
            self.capabilities = self._command("WebDriver:NewSession", {})["capabilities"]
            self._command("Marionette:SetContext", {"value": "chrome"})
        except BaseException:
            self.stop()
            raise

    def _connect(self, port_file: Path) -> socket.socket:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                port = int(port_file.read_text())
                return socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S)
            except (OSError, ValueError):
                time.sleep(0.1)
        raise RuntimeError(f"Firefox offers no session; see {port_file.parents[1]}/firefox.log")

    def _receive(self) -> Any:
        length = b""
        while (digit := self._stream.read(1)).isdigit():
            length += digit
        return json.loads(self._stream.read(int(length)))

    def _command(self, name: str, parameters: Mapping[str, object]) -> Any:
        self._count += 1
        message = json.dumps([0, self._count, name, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._receive()
        if error is not None:
            raise RuntimeError(f"{name}: {error['error']}: {error['message']}")
        return result

    def run(self, body: str, *arguments: object) -> Any:
        """Run privileged JavaScript, the body of an async function; what it returns, as JSON.

        Raises:
            RuntimeError: It threw; the message is the exception's.
        """
        parameters = {
            "script": _RUN % body,
            "args": [arguments],
            "scriptTimeout": _ANSWER_S * 1000,
        }
        told = self._command("WebDriver:ExecuteAsyncScript", parameters)["value"]
        if "error" in told:
            raise RuntimeError(told["error"])
        return told.get("value")

    def exchange(
        self,
        relay: str,
        config: bytes,
        path: str,
        *,
        headers: Mapping[str, str],
        body: str | None = None,
    ) -> Answer:
        """One request that Firefox seals to `config`, sends to `relay`, and opens the answer of.

        Args:
            relay: URL of the relay resource.
            config: One key configuration; Firefox takes no list of them.
            path: Of the request inside.
            headers: Fields of the request inside; Firefox sends names as they are written here.
            body: ASCII; with one the method is POST, else GET.

        Raises:
            RuntimeError: Firefox does not take the configuration, or there is no answer.
        """
        encoded = base64.b64encode(config).decode()
        method = "GET" if body is None else "POST"
        told = self.run(
            _EXCHANGE, relay, f"https://gateway{path}", encoded, method, dict(headers), body
        )
        return Answer(
            outer_status=told["outerStatus"],
            outer_type=told["outerType"],
            status=told.get("status"),
            headers=told.get("headers", {}),
            content=told.get("content", ""),
        )

    def stop(self) -> None:
        """End the browser and all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
