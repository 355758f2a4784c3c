"""What the commands have in common that run one role alone: relay, log, witness.

Nothing of the device is imported here: a relay should not load what a chat needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.config import ConfigT, load_config, parse_config
from runtime.errors import Exit, SottoError


def add_listening(parser: argparse.ArgumentParser, port: int, told: str) -> None:
    """Where a role listens, and how it says so: `told` is what `--json` tells."""
    parser.add_argument("--port", type=int, help=f"where to listen (default: {port})")
    parser.add_argument("--host", help="on which address (default: 127.0.0.1)")
    parser.add_argument(
        "--metrics-port", type=int, help=f"metrics, on loopback (default: {port + 1000})"
    )
    parser.add_argument("--json", action="store_true", help=f"say {told} in JSON")


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--lifeline``."""
    parser.add_argument("--config", type=Path, help="its TOML file, instead of the options")
    parser.add_argument("--lifeline", action="store_true", help="stop when standard input closes")


def choose_config(
    kind: type[ConfigT],
    file: Path | None,
    given: Mapping[str, Any],
    *,
    needed: frozenset[str],
    source: str,
    usage: str,
) -> ConfigT:
    """The file's settings or the command line's, never a mixture.

    Args:
        kind: Of configuration.
        file: What `--config` names.
        given: Options under the configuration's keys; None where one was not given.
        needed: Keys that have no default.
        source: Names the options in errors.
        usage: What to type where something is missing.

    Raises:
        SottoError: Both, or neither, or a setting is wrong.
    """
    options = {key: value for key, value in given.items() if value is not None}
    if file is None:
        if needed <= options.keys():
            return parse_config(kind, options, source)
        raise SottoError(usage, exit_code=Exit.USAGE)
    if options:
        raise SottoError(
            f"--config FILE stands alone: write {', '.join(options)} into the file",
            exit_code=Exit.USAGE,
        )
    return load_config(kind, file)


def http_url(host: str, port: int) -> str:
    """The base address of a server; IPv6 in brackets (RFC 3986 section 3.2.2)."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def metrics_url(port: int) -> str:
    """Metrics are on loopback alone."""
    return http_url("127.0.0.1", port) + "/metrics"


def announce(line: str, told: Mapping[str, object] | None) -> None:
    """Say where a role listens: `told` in JSON if it is given, else the line."""
    # Whoever started it need not stay to read this.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write((line if told is None else json.dumps(told)) + "\n")
        sys.stdout.flush()
