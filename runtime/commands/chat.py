"""`sotto chat`: talk to a persona, or do one turn for a program."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.registry import Resolved, resolve
from runtime.client.turns import TurnOptions
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_shaping,
    add_way,
    carrier,
    home_folder,
    load_policy,
    plain,
    print_json,
    say,
)
from runtime.commands.conversation import Conversation, show_prompt
from runtime.errors import Exit, SottoError


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("chat", help="talk to a persona")
    parser.add_argument(
        "persona",
        help="a persona's handle; `sotto personas` lists those that come with Sottovoce. "
        "HANDLE@FINGERPRINT talks to it only where that key has published it",
    )
    parser.add_argument("--message", help="do one turn with this text and end")
    parser.add_argument("--as", dest="user", metavar="NAME", help="what the persona calls you")
    parser.add_argument(
        "--greeting",
        type=_number,
        default=0,
        metavar="N",
        help="which of its greetings opens the conversation, from 0 (default: the first)",
    )
    parser.add_argument("--json", action="store_true", help="with --message: print JSON")
    parser.add_argument(
        "--show-prompt",
        action="store_true",
        help="show the prompt that the enclave built; only a debug enclave tells",
    )
    add_way(parser)
    add_shaping(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.json and args.message is None:
        raise SottoError("--json needs --message TEXT", code="usage", exit_code=Exit.USAGE)
    policy, _ = load_policy(args)
    folder = home_folder(args)
    if args.message is None:
        return Conversation(folder, policy, args).run()
    home = DeviceHome(folder)
    try:
        device = Device(home, policy, carrier(args), shaping=args.shaping)
        return asyncio.run(_one_turn(args, device, home))
    finally:
        home.close()


async def _one_turn(args: argparse.Namespace, device: Device, home: DeviceHome) -> int:
    async with device:
        found = await resolve(device, home, args.persona)
        result = _OneTurn(args, found)
        simulated = (await device.enclaves())[0].attested.simulated
        result.fields["simulated"] = simulated
        if simulated and not args.json:
            sys.stderr.write(SIMULATED_LINE + "\n")
        # Nobody was greeted who came with a message.
        options = TurnOptions(user=args.user)
        async for event in device.turn(found.reference, args.message, options=options):
            result.take(event)
        code = result.end()
        await device.drained()
    return code


class _OneTurn:
    """Collects one turn's events into what `--json` prints, or shows them as they come."""

    def __init__(self, args: argparse.Namespace, found: Resolved) -> None:
        self._args = args
        self._started = time.monotonic()
        self.fields: dict[str, Any] = {
            "text": "",
            "ttft_ms": None,
            "persona": found.reference.model_dump(),
        }

    def take(self, event: dict[str, Any]) -> None:
        """One event of the turn."""
        fields, quiet = self.fields, self._args.json
        match event["type"]:
            case "response.created":
                shown = ("engine", "model", "enclave_id", "notice", "prompt")
                fields |= {key: event[key] for key in shown if key in event}
                if notice := None if quiet else event.get("notice"):
                    sys.stderr.write(notice + "\n")
                if not quiet and self._args.show_prompt:
                    show_prompt(event)
            case "response.output_text.delta":
                fields["ttft_ms"] = fields["ttft_ms"] or self._elapsed_ms()
                fields["text"] += event["delta"]
                if not quiet:
                    say(plain(event["delta"]), end="")
            case "response.restarted":
                fields["text"] = ""
                if not quiet:
                    say("\n[the enclave restarted and answers anew]")
            case "thread.moved":
                fields["moved"] = event["reason"]
                sys.stderr.write(event["message"] + "\n")
            case "response.completed" | "response.cancelled" | "response.failed" as kind:
                fields["outcome"] = kind.removeprefix("response.")
                fields |= {key: event[key] for key in ("turn_id", "receipt_id")}
                fields |= {key: event[key] for key in ("usage", "error") if key in event}

    def end(self) -> int:
        """Print what is left to print; the exit code."""
        self.fields["total_ms"] = self._elapsed_ms()
        failed = self.fields["outcome"] == "failed"
        if self._args.json:
            print_json(self.fields)
        elif failed:
            error = self.fields["error"]
            raise SottoError(error["message"], code=error["code"])
        else:
            say()
        return Exit.FAILED if failed else Exit.OK

    def _elapsed_ms(self) -> float:
        return round((time.monotonic() - self._started) * 1000, 1)
