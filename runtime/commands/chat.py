"""`sotto chat`: talk to a persona, or do one turn for a program."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from personas.authorship import fingerprint
from proofs.policy import Policy
from runtime.client.device import Device, TurnOptions
from runtime.client.home import DeviceHome
from runtime.client.registry import Resolved, resolve
from runtime.client.sealed import LiveEnclave
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_shaping,
    add_way,
    carrier,
    dim,
    home_folder,
    load_policy,
    plain,
    print_json,
    say,
)
from runtime.commands.memory import show_why, table
from runtime.enclave.persona_text import greeting_of, speaker
from runtime.errors import Exit, SottoError

T = TypeVar("T")
_Events = queue.SimpleQueue[dict[str, Any] | Exception | None]
_CTRL_C: dict[str, Any] = {"type": "ctrl-c"}
_LAST_RECEIPTS_S = 3.0


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
        raise SottoError("--json needs --message TEXT", exit_code=Exit.USAGE)
    policy, _ = load_policy(args)
    folder = home_folder(args)
    if args.message is None:
        return _Conversation(folder, policy, args).run()
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
                if not quiet:
                    _introduce(event, show_prompt=self._args.show_prompt)
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


def _introduce(event: dict[str, Any], *, show_prompt: bool) -> None:
    if notice := event.get("notice"):
        sys.stderr.write(notice + "\n")
    if show_prompt:
        show(event)


def show(event: dict[str, Any]) -> None:
    """The built prompt, where the enclave is a debug build and tells."""
    if "prompt" not in event:
        say(dim("[this enclave does not tell its prompt: it is not a debug build]"))
    for message in event.get("prompt", []):
        say(dim(plain(f"[{message['role']}] {message['content']}")))


def _one_ref(rest: str, command: str) -> str:
    if not rest or " " in rest:
        raise SottoError(f"say which: {command} REF; /memory lists them")
    return rest


async def _leave() -> None:
    """End what Ctrl-C has left running."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Conversation:
    """A conversation in a terminal.

    The line editor blocks, so it has this thread, and the device has one with an event loop: a
    receipt can arrive while somebody thinks about what to say.
    """

    def __init__(self, folder: Path, policy: Policy, args: argparse.Namespace) -> None:
        self._home_folder = folder
        self._policy = policy
        self._args = args
        self._found: Resolved
        self._loop = asyncio.new_event_loop()
        self._notice: str | None = None
        self._turns: list[str] = []
        # What was said since incognito was turned on; None while it is off. Kept here alone.
        self._unkept: list[tuple[str, str]] | None = None

    def run(self) -> int:
        """Talk until end of input or Ctrl-C at the prompt."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            device, home = self._call(self._connect())
            try:
                self._found = self._call(resolve(device, home, self._args.persona))
                self._greet(self._call(device.enclaves()), self._call(self._greeting(home)))
                self._talk(device)
                self._say_goodbye(device)
            finally:
                self._call(device.__aexit__(None, None, None))
        finally:
            self._call(_leave())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
        return Exit.OK

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> tuple[Device, DeviceHome]:
        # A database belongs to the thread that opens it, so the loop's thread opens its own.
        home, args = DeviceHome(self._home_folder), self._args
        device = Device(home, self._policy, carrier(args), shaping=args.shaping)
        return await device.__aenter__(), home

    async def _greeting(self, home: DeviceHome) -> str:
        """The words that open the conversation, as the enclave will have them in its prompt."""
        if (persona := self._found.persona) is None:
            return ""  # a private persona's words are for enclaves alone
        seed = bytes.fromhex(home.thread_keys(persona.handle).thread_id)
        speak = speaker(persona, self._args.user or "", seed)
        return greeting_of(persona, self._args.greeting, speak)

    def _greet(self, enclaves: list[LiveEnclave], greeting: str) -> None:
        claims = enclaves[0].attested.claims
        listing = self._found.listing
        say(f"{listing.name}: {listing.tagline}")
        if listing.key:
            shown = "private, " if listing.private else ""
            say(dim(f"{shown}published by the key {fingerprint(listing.key)}"))
        say(dim(f"{claims.engine} · {claims.model} · sealed on this device"))
        if enclaves[0].attested.simulated:
            say(dim(SIMULATED_LINE))
        say(dim("Ctrl-C stops a reply; Ctrl-C or Ctrl-D at the prompt ends the chat."))
        say(dim("/help lists what else can be done here."))
        if greeting:
            say(f"\n{listing.name}> {plain(greeting)}")

    def _talk(self, device: Device) -> None:
        while True:
            try:
                message = input(self._prompt()).strip()
            except (EOFError, KeyboardInterrupt):
                say()
                return
            if message.startswith("/") and not message.startswith("//"):
                self._command(device, message)
            elif message:
                say(f"\n{self._found.listing.name}> ", end="")
                # Two slashes say one: a message may begin with it, too.
                self._reply(device, message[1:] if message.startswith("//") else message)

    def _prompt(self) -> str:
        return "\nyou> " if self._unkept is None else "\nyou (incognito)> "

    def _command(self, device: Device, line: str) -> None:
        """What begins with a slash: about memory, and not for the persona."""
        word, _, rest = line[1:].partition(" ")
        command = _COMMANDS.get(word)
        if command is None:
            say(f"[there is no /{plain(word)}; /help lists what there is]")
            return
        try:
            command.act(self, device, rest.strip())
        except KeyboardInterrupt:
            say()
        except SottoError as error:
            say(f"[{plain(str(error))}]")

    def _help(self, device: Device, rest: str) -> None:
        del device, rest
        for word, command in _COMMANDS.items():
            say(f"/{word + ' ' + command.takes:<22} {command.text}")
        say(f"{'//...':<23} say something that begins with a slash")

    def _memory(self, device: Device, rest: str) -> None:
        memories, handle = device.memories, self._found.reference.handle
        asked = memories.search(handle, rest) if rest else memories.page(handle, kinds=["fact"])
        found = self._call(asked)
        table(found["memories"])
        if not found["memories"]:
            say("[nothing is remembered that fits]" if rest else "[no facts are remembered yet]")
        elif found.get("next"):
            say(dim(f"{found['total']} in all: sotto memory list {handle}"))

    def _why(self, device: Device, rest: str) -> None:
        show_why(self._call(device.memories.why(self._found.reference.handle, rest or None)))

    def _pin(self, device: Device, rest: str) -> None:
        answer = self._call(
            device.memories.pin(self._found.reference.handle, _one_ref(rest, "/pin"))
        )
        say(f"[{answer['memory']['ref']} stays in every prompt now]")

    def _forget(self, device: Device, rest: str) -> None:
        memories, handle = device.memories, self._found.reference.handle
        refs = rest.split()
        if not refs:
            raise SottoError("say which: /forget REF; /memory lists them")
        plan = self._call(memories.plan(handle, refs))
        say("This goes:")
        table(plan["would"])
        try:
            answer = input("Nothing brings it back. Type yes: ").strip()
        except EOFError:
            answer = ""
        if answer != "yes":
            say("[nothing was forgotten]")
            return
        row = self._call(memories.forget(handle, refs))
        say(f"[forgotten; receipt {row.receipt_id}]")

    def _incognito(self, device: Device, rest: str) -> None:
        del device
        if rest not in ("on", "off"):
            raise SottoError("say /incognito on, or /incognito off")
        if rest == "on":
            self._unkept = self._unkept or []
            say("[incognito: what is said from here on is not remembered]")
        else:
            self._unkept = None
            say("[what was said incognito is gone; from here on it is remembered again]")

    def _reply(self, device: Device, message: str) -> None:
        """Show one reply as it comes; Ctrl-C stops it, and once more the waiting for its end."""
        events: _Events = queue.SimpleQueue()
        # As an exception it could come at any line, and end the chat.
        before = signal.signal(signal.SIGINT, lambda number, frame: events.put(_CTRL_C))
        try:
            turn = self._turn(device, message, events)
            running = asyncio.run_coroutine_threadsafe(turn, self._loop)
            self._follow(device, events)
            running.cancel()
        finally:
            signal.signal(signal.SIGINT, before)

    def _follow(self, device: Device, events: _Events) -> None:
        turn_id, stopping = "", False
        while (event := events.get()) is not None:
            if event is _CTRL_C:
                if stopping or not turn_id:
                    say(dim("[not waited for; an enclave that has the message may yet answer it]"))
                    return
                stopping = True
                stop = self._stop(device, turn_id, events)
                asyncio.run_coroutine_threadsafe(stop, self._loop)
                continue
            if isinstance(event, SottoError):
                say(f"\n[{event}]")
                return
            if isinstance(event, Exception):
                raise event
            turn_id = event.get("turn_id", turn_id)
            self._show(event)

    async def _stop(self, device: Device, turn_id: str, events: _Events) -> None:
        try:
            await device.cancel(self._found.reference, turn_id)
        except Exception as error:  # as in `_turn`
            events.put(error)

    def _show(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "response.created":
                if event.get("notice") not in (None, self._notice):
                    self._notice = event["notice"]
                    say(dim(f"[{self._notice}]"))
                if self._args.show_prompt:
                    show(event)
            case "response.output_text.delta":
                say(plain(event["delta"]), end="")
            case "response.restarted":
                say("\n[the enclave restarted and answers anew]")
            case "thread.moved":
                say(dim(f"[{event['message']}]"))
            case "response.completed":
                self._answered(event)
                say()
            case "response.cancelled":
                self._answered(event)
                say(dim(" [stopped]"))
            case "response.failed":
                say(f"[{event['error']['message']}]")

    def _answered(self, event: dict[str, Any]) -> None:
        if self._unkept is None:
            self._turns.append(event["receipt_id"])

    async def _turn(self, device: Device, message: str, events: _Events) -> None:
        said = self._unkept
        options = TurnOptions(
            user=self._args.user,
            greeting=None if self._found.persona is None else self._args.greeting,
            incognito=None if said is None else tuple(said),
        )
        reply = ""
        try:
            async for event in device.turn(self._found.reference, message, options=options):
                match event["type"]:
                    case "response.output_text.delta":
                        reply += event["delta"]
                    case "response.restarted":
                        reply = ""
                    case "response.completed" | "response.cancelled" if said is not None:
                        said.append((message, reply))
                events.put(event)
            events.put(None)
        except Exception as error:  # handed to the thread that shows it
            events.put(error)

    def _say_goodbye(self, device: Device) -> None:
        """Receipts come after the answers; wait a moment for the last of them."""

        async def settle() -> list[str]:
            rows = [await device.wait_settled(one, _LAST_RECEIPTS_S) for one in self._turns]
            return [row.status for row in rows if row is not None]

        states = self._call(settle())
        if states:
            settled = states.count("settled")
            say(dim(f"{settled} of {len(states)} receipts settled; `sotto receipts` lists them."))
        if refused := states.count("refused"):
            say(f"{refused} receipts were REFUSED: see `sotto receipts`.")


@dataclass(frozen=True, slots=True)
class _Command:
    """One thing that can be done besides talking.

    Attributes:
        takes: What stands behind the word.
        text: What it does, for /help.
        act: Does it.
    """

    takes: str
    text: str
    act: Callable[[_Conversation, Device, str], None]


_COMMANDS = {
    "memory": _Command("[WORDS]", "list the facts, or find memories", _Conversation._memory),
    "why": _Command("[REF]", "what stood in the prompt of the last turn", _Conversation._why),
    "pin": _Command("REF", "keep a memory in every prompt", _Conversation._pin),
    "forget": _Command("REF...", "have memories erased", _Conversation._forget),
    "incognito": _Command("on|off", "say things that leave no trace", _Conversation._incognito),
    "help": _Command("", "this list", _Conversation._help),
}
