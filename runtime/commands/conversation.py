"""`sotto chat` in a terminal: a conversation, and what can be done about its memory on the way."""

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
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.registry import Resolved, resolve
from runtime.client.sealed import LiveEnclave
from runtime.client.turns import TurnOptions
from runtime.commands.common import SIMULATED_LINE, carrier, dim, plain, say, wrapped
from runtime.commands.memory import show_why, table
from runtime.commands.terminal import (
    Speech,
    keys_unseen,
    prepare,
    read_message,
    tell,
    was_typing,
)
from runtime.enclave.persona_text import greeting_of, speaker
from runtime.errors import Exit, SottoError

T = TypeVar("T")
_Events = queue.SimpleQueue[dict[str, Any] | Exception | None]
_CTRL_C: dict[str, Any] = {"type": "ctrl-c"}
_LAST_RECEIPTS_S = 3.0
_QUIET_S = 3.0
_CLOCKS_APART_S = 60.0


def show_prompt(event: dict[str, Any]) -> None:
    """The built prompt, where the enclave is a debug build and tells."""
    if "prompt" not in event:
        say(dim("[this enclave does not tell its prompt: it is not a debug build]"))
    for message in event.get("prompt", []):
        say(dim(plain(f"[{message['role']}] {message['content']}")))


def _one_ref(rest: str, command: str) -> str:
    if not rest or " " in rest:
        raise SottoError(f"say which: {command} REF; /memory lists them")
    return rest


def _refuse(why: str) -> None:
    say(wrapped(plain(f"[{why}]"), sys.stdout))


async def _leave() -> None:
    """End what Ctrl-C has left running."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Conversation:
    """A conversation in a terminal.

    The line editor blocks, so it has this thread, and the device has one with an event loop: a
    receipt can arrive while somebody thinks about what to say.

    Args:
        folder: The device's.
        policy: What an enclave must prove.
        args: Of `sotto chat`.
    """

    def __init__(self, folder: Path, policy: Policy, args: argparse.Namespace) -> None:
        self._home_folder = folder
        self._policy = policy
        self._args = args
        self._found: Resolved
        self._speech: Speech
        self._loop = asyncio.new_event_loop()
        self._notice: str | None = None
        self._turns: list[str] = []
        # What was said whose reply was not waited for, and when (unix seconds).
        self._given_up: tuple[str, float] | None = None
        # What was said since incognito was turned on; None while it is off. Kept here alone.
        self._unkept: list[tuple[str, str]] | None = None

    def run(self) -> int:
        """Talk until end of input, /quit, or Ctrl-C twice at an empty prompt."""
        prepare()
        # As any other end: the terminal is left as it was found.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            device, home = self._call(self._connect())
            try:
                self._found = self._call(resolve(device, home, self._args.persona))
                self._speech = Speech(self._found.listing.name)
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
        say(wrapped(plain(f"{listing.name}: {listing.tagline}"), sys.stdout))
        if listing.key:
            shown = "private, " if listing.private else ""
            tell(f"{shown}published by the key {fingerprint(listing.key)}")
        tell(f"{claims.engine} · {claims.model} · sealed on this device")
        if enclaves[0].attested.simulated:
            tell(SIMULATED_LINE)
        tell("Ctrl-C stops a reply; Ctrl-D or /quit ends the chat.")
        tell("/help lists what else can be done here.")
        if greeting:
            say()
            self._speech.say(greeting)
            self._speech.end()

    def _talk(self, device: Device) -> None:
        warned = False
        while True:
            # All of it: Ctrl-C may come just after the reply that it was to stop has ended.
            try:
                self._take(device, read_message(self._prompt()))
                warned = False
            except EOFError:
                say()
                return
            except KeyboardInterrupt:
                say()
                if not was_typing():
                    if warned or not sys.stdin.isatty():
                        return
                    tell("[Ctrl-C once more, or Ctrl-D, ends the chat]")
                    warned = True

    def _take(self, device: Device, message: str) -> None:
        if message.startswith("/") and not message.startswith("//"):
            self._command(device, message)
        elif message:
            say()
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
            _refuse(str(error))

    def _help(self, device: Device, rest: str) -> None:
        del device, rest
        for word, command in _COMMANDS.items():
            say(f"/{word + ' ' + command.takes:<22} {command.text}")
        say(f"{'//...':<23} say something that begins with a slash")
        quotes = '"""'
        say(f"{quotes:<23} begin and end several lines; a paste needs none")

    def _quit(self, device: Device, rest: str) -> None:
        del device, rest
        raise EOFError

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
        # As an exception it could come at any line.
        before = signal.signal(signal.SIGINT, lambda number, frame: events.put(_CTRL_C))
        try:
            with keys_unseen():
                self._show_answer_to_given_up(device)
                turn = self._turn(device, message, events)
                running = asyncio.run_coroutine_threadsafe(turn, self._loop)
                began = time.time()
                if not self._follow(device, events) and self._unkept is None:
                    self._given_up = message, began
                running.cancel()
        finally:
            signal.signal(signal.SIGINT, before)

    def _show_answer_to_given_up(self, device: Device) -> None:
        """Show the reply that nobody waited for, if it was made all the same."""
        given_up, self._given_up = self._given_up, None
        if given_up is None:
            return
        message, began = given_up
        why = device.memories.why(self._found.reference.handle, None)
        with contextlib.suppress(SottoError, TimeoutError):
            turn = self._call(asyncio.wait_for(why, _QUIET_S))["turn"]
            same = turn["text"] == message and turn["time"] > began - _CLOCKS_APART_S
            if same and turn["receipt_id"] not in self._turns and turn["reply"]:
                self._speech.note("[what you said before was answered meanwhile:]")
                self._speech.say(turn["reply"])
                self._speech.end("\n")

    def _follow(self, device: Device, events: _Events) -> bool:
        """Show a turn up to its end; False where that was not waited for."""
        turn_id, stopping, told = "", False, False
        while True:
            try:
                event = events.get(timeout=None if told else _QUIET_S)
            except queue.Empty:
                told = True
                self._speech.note(
                    "[nothing comes; an enclave that is away is tried again for a minute. Ctrl-C "
                    "stops the waiting]"
                )
                continue
            if event is None:
                return True
            if event is _CTRL_C:
                if stopping or not turn_id:
                    self._speech.note(
                        "[not waited for; an enclave that has the message may yet answer it]"
                    )
                    return False
                stopping = True
                stop = self._stop(device, turn_id, events)
                asyncio.run_coroutine_threadsafe(stop, self._loop)
                continue
            if isinstance(event, SottoError):
                self._speech.end()
                _refuse(str(event))
                return True
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
        speech = self._speech
        match event["type"]:
            case "response.created":
                if event.get("notice") not in (None, self._notice):
                    self._notice = event["notice"]
                    speech.note(f"[{self._notice}]")
                if self._args.show_prompt:
                    show_prompt(event)
            case "response.output_text.delta":
                speech.say(event["delta"])
            case "response.restarted":
                speech.note("[the enclave restarted and answers anew]")
            case "thread.moved":
                speech.note(f"[{event['message']}]")
            case "response.completed":
                self._answered(event)
                speech.end()
            case "response.cancelled":
                self._answered(event)
                speech.end(dim(" [stopped]"))
            case "response.failed":
                speech.end()
                _refuse(event["error"]["message"])

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
            tell(f"{settled} of {len(states)} receipts settled; `sotto receipts` lists them.")
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
    act: Callable[[Conversation, Device, str], None]


_COMMANDS = {
    "memory": _Command("[WORDS]", "list the facts, or find memories", Conversation._memory),
    "why": _Command("[REF]", "what stood in the prompt of the last turn", Conversation._why),
    "pin": _Command("REF", "keep a memory in every prompt", Conversation._pin),
    "forget": _Command("REF...", "have memories erased", Conversation._forget),
    "incognito": _Command("on|off", "say things that leave no trace", Conversation._incognito),
    "help": _Command("", "this list", Conversation._help),
    "quit": _Command("", "end the chat, as Ctrl-D does", Conversation._quit),
    "exit": _Command("", "the same", Conversation._quit),
}
