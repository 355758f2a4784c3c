"""`sotto relay`: carry sealed bytes to gateways, alone, as an independent operator does."""

from __future__ import annotations

import argparse
import re
from typing import Any
from urllib.parse import urlsplit

from runtime.commands.alone import (
    add_config,
    add_listening,
    announce,
    choose_config,
    http_url,
    metrics_url,
)
from runtime.errors import Exit, SottoError
from transport.relay.name import GATEWAY_NAME


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("relay", help="run the relay alone")
    add_config(parser)
    parser.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="a gateway to relay to, instead of --config; its name is the URL's host where none "
        "is given; may be repeated",
    )
    add_listening(parser, 8471, "where it listens")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from runtime import roles
    from runtime.config import RelayRoleConfig
    from runtime.telemetry import setup_logging

    given = {
        "host": args.host,
        "port": args.port,
        "metrics_port": args.metrics_port,
        "gateways": _gateways(args.gateway) or None,
    }
    config = choose_config(
        RelayRoleConfig,
        args.config,
        given,
        needed=frozenset({"gateways"}),
        source="the relay's options",
        usage="say which gateway: sotto relay --gateway URL",
    )

    def listening(port: int, metrics_port: int) -> None:
        relay, metrics = http_url(config.host, port), metrics_url(metrics_port)
        names = sorted(config.gateways)
        told = {"relay": relay, "gateways": names, "metrics": metrics}
        line = f"relay: {relay} for {', '.join(names)}; metrics: {metrics}"
        announce(line, told if args.json else None)

    setup_logging("relay")
    roles.run_until_stopped(
        lambda stop: roles.run_relay(config, stop, listening=listening), lifeline=args.lifeline
    )
    return Exit.OK


def _gateways(given: list[str]) -> dict[str, str]:
    """Gateways by name; a URL alone has its host for a name."""
    found: dict[str, str] = {}
    for one in given:
        named = not one.startswith(("http://", "https://"))
        name, _, url = one.partition("=") if named else (_host(one), "", one)
        if not url.startswith(("http://", "https://")):
            raise SottoError(
                "a gateway is given as URL or NAME=URL, with a URL of the form "
                "http(s)://host[:port][/path]",
                exit_code=Exit.USAGE,
            )
        if re.fullmatch(GATEWAY_NAME, name) is None:
            raise SottoError(
                "a gateway's name has lowercase letters, digits, . _ and - only; where its host is "
                "no such name, give one: --gateway NAME=URL",
                exit_code=Exit.USAGE,
            )
        if name in found:
            raise SottoError(
                f"two gateways are named {name}; give each a name: --gateway NAME=URL",
                exit_code=Exit.USAGE,
            )
        found[name] = url.rstrip("/")
    return found


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
