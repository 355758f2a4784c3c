"""Run every ``sh`` block of a Markdown file, in order, as a newcomer would type it.

``make run`` goes on in the background, as in a terminal of its own, until the next ``make`` block
or the end; the time from its start to the first token of a first chat is printed. All other
blocks must succeed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

READY = "Sottovoce is ready"
FIRST_TOKEN_LIMIT_S = 90


class Server:
    """``make run`` in the background."""

    def __init__(self, block: str) -> None:
        self.started = time.monotonic()
        # No terminal, so it serves until it is stopped.
        self.process = subprocess.Popen(
            ["bash", "-euc", f"exec {block}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for line in self.process.stdout or ():
            sys.stdout.write(line)
            if line.startswith(READY):
                return
        raise SystemExit(f"`{block}` ended with {self.process.wait()} before it was ready")

    def first_token(self) -> None:
        """One turn; prints how long a newcomer waits for the first word."""
        ready = time.monotonic() - self.started
        command = [".venv/bin/sotto", "chat", "wren", "--message", "Hello!", "--json"]
        asked = time.monotonic() - self.started
        turn = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        seconds = asked + turn["ttft_ms"] / 1000
        print(f"make run: ready after {ready:.1f} s, first token after {seconds:.1f} s")
        print(f"  {turn['model']}: {turn['text']!r}")
        if seconds > FIRST_TOKEN_LIMIT_S:
            print(f"  more than the {FIRST_TOKEN_LIMIT_S} s that we aim for")

    def stop(self) -> None:
        """As Ctrl-C does, which reaches make and all that it started in its terminal."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(60)
        left = subprocess.run(["pgrep", "-f", "runtime [a-z]+ --config data/config/"], check=False)
        if left.returncode == 0:
            raise SystemExit("make run left processes behind when it was stopped")
        print("make run: stopped cleanly")


def main() -> None:
    """Run the file named on the command line."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    server: Server | None = None
    try:
        for block in blocks:
            print(f"--- {sys.argv[1]}:\n{block}", end="", flush=True)
            if server is not None and block.startswith("make "):
                stopping, server = server, None
                stopping.stop()
            if block.startswith("make run"):
                server = Server(block.strip())
                server.first_token()
                continue
            done = subprocess.run(["bash", "-euc", block], env={**os.environ}, check=False)
            if done.returncode != 0:
                raise SystemExit(f"a block of {sys.argv[1]} ended with {done.returncode}")
    finally:
        if server is not None:
            server.stop()


if __name__ == "__main__":
    main()
