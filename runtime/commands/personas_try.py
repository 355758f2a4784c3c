"""`sotto personas test` and `sotto personas preview`: try a persona before it is published."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from personas.digest import persona_digest
from personas.errors import PersonaError
from personas.files import read_bounded
from personas.model import Persona
from runtime.commands.common import counted, plain, print_json, say
from runtime.commands.personas_files import PERSONA_HELP, find_package, refused
from runtime.config import EngineConfig
from runtime.creators.preview import (
    MAX_CONVERSATION_BYTES,
    Exchanged,
    Preview,
    preview,
    read_conversation,
)
from runtime.creators.trials import (
    Report,
    Result,
    names_of_checks,
    run_checks,
    tokens_by_part,
)
from runtime.enclave.engines.base import Engine, EngineError
from runtime.enclave.prompt import PromptTooLongError
from runtime.enclave.server import make_engine
from runtime.errors import Exit, SetupError, SottoError

_T = TypeVar("_T")

_SHOWN_CHARACTERS = 300
_DEFAULT_MESSAGE = "Hello!"


def add_parsers(commands: Any) -> None:
    """Register the commands."""
    test = commands.add_parser(
        "test",
        help="try a persona on an engine: the author's own tests and a standard set",
        description="Says things to the persona and judges the replies. The judges are "
        "heuristics over English words; failures show the reply. Exit code 1: something failed.",
    )
    test.add_argument("--tries", type=_count, default=1, help="replies to each message (default 1)")
    test.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CHECK",
        help="this check alone, such as `honest` or `test-1`; may be given again",
    )
    test.set_defaults(run=_run_test)

    show = commands.add_parser(
        "preview",
        help="show the prompt that an engine gets, and the tokens of each part",
        description="Builds the prompt as the enclave does, for a thread that remembers nothing "
        "but the conversation given. No reply is made.",
    )
    show.add_argument(
        "--conversation",
        type=Path,
        metavar="FILE",
        help='what was said: a JSON list of {"user": ..., "persona": ...}, or lines '
        "`Them: ...` and `You: ...`, the persona being You",
    )
    show.add_argument(
        "--message",
        help=f"what is said now (default: how the conversation ends, else {_DEFAULT_MESSAGE})",
    )
    show.add_argument("--user", default="", help="what the persona calls the person")
    show.add_argument(
        "--greeting",
        type=int,
        metavar="N",
        help="the greeting that began it, from 0 (default: none)",
    )
    show.set_defaults(run=_run_preview)

    for parser in (test, show):
        parser.add_argument("persona", metavar="FILE|HANDLE", help=PERSONA_HELP)
        parser.add_argument(
            "--engine",
            choices=["embedded", "vllm", "openai", "scripted"],
            default="embedded",
            help="which (default: embedded)",
        )
        parser.add_argument("--model", help="folder or name of a model, for vllm and openai")
        parser.add_argument("--base-url", help="the openai engine's server, on loopback")
        parser.add_argument(
            "--context-tokens", type=int, metavar="N", help="the window (default: the engine's)"
        )
        parser.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError("must be 1 to 100")
    return int(text)


@asynccontextmanager
async def _engine(args: argparse.Namespace, *, replies: bool) -> AsyncIterator[Engine]:
    """The chosen engine, started; its window is narrowed, or for a preview widened, if asked."""
    tokens = args.context_tokens
    if tokens is not None and not 256 <= tokens <= 10_000_000:
        raise SetupError("--context-tokens must be 256 to 10000000")
    engine = make_engine(
        EngineConfig(
            kind=args.engine,
            model=args.model,
            base_url=args.base_url,
            context_tokens=tokens,
            first_token_s=0,
            token_s=0,
        )
    )
    sys.stderr.write(f"Starting the {engine.name} engine…\n")
    try:
        await engine.start()
        if tokens is not None:
            if replies and tokens > engine.context_tokens:
                raise SetupError(f"this engine's window has {engine.context_tokens} tokens")
            engine.context_tokens = tokens
        yield engine
    finally:
        await engine.close()


def _complete(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except EngineError as error:
        raise SottoError(plain(str(error)), code=error.code) from None


def _persona_json(persona: Persona) -> dict[str, str]:
    return {
        "handle": persona.handle,
        "name": persona.name,
        "version": persona.version,
        "digest": persona_digest(persona).hex(),
    }


def _engine_json(engine: Engine) -> dict[str, Any]:
    return {
        "name": engine.name,
        "model": engine.model,
        "context_tokens": engine.context_tokens,
        "notice": engine.notice,
    }


# --- test ---


def _run_test(args: argparse.Namespace) -> int:
    persona = find_package(args.persona).persona
    known = names_of_checks(persona)
    if unknown := [name for name in args.only if name not in known]:
        raise SottoError(
            f"there is no check {plain(unknown[0])[:64]!r}; there are {', '.join(known)}",
            code="unknown_check",
            exit_code=Exit.USAGE,
        )

    async def work() -> tuple[dict[str, Any], Report]:
        async with _engine(args, replies=True) as engine:
            report = await run_checks(
                persona, engine, tries=args.tries, only=args.only, progress=_progress()
            )
            return _engine_json(engine), report

    engine, report = _complete(work())
    if args.json:
        print_json({"persona": _persona_json(persona), "engine": engine, **_report_json(report)})
    else:
        _say_report(persona, engine, report)
    return Exit.FAILED if report.count("fail") else Exit.OK


def _progress() -> Callable[[int, int], None]:
    live = sys.stderr.isatty()

    def told(done: int, of: int) -> None:
        if live:
            sys.stderr.write(f"\r{done} of {of} replies" + ("\n" if done == of else ""))
        elif done == of:
            sys.stderr.write(f"{counted(of, 'reply', 'replies')}\n")
        sys.stderr.flush()

    return told


def _say_report(persona: Persona, engine: dict[str, Any], report: Report) -> None:
    say(f"{plain(persona.name)} {persona.version} on {engine['name']} ({plain(engine['model'])})")
    if engine["notice"]:
        say(plain(engine["notice"]))
    say()
    if report.size is not None:
        _say_sizes(report.size)
        say()
    for result in report.results:
        tries = f"{result.passed}/{len(result.tries)}" if result.tries else ""
        say(f"{_WORDS[result.outcome]:<11} {tries:<6} {plain(result.name)}{_what(persona, result)}")
        if result.outcome == "pass":
            continue
        if result.verdict.reason:
            say(f"{'':<19}{plain(result.verdict.reason)}")
        for one in result.tries:
            if one.verdict.outcome != "pass":
                say(f"{'':<19}{plain(one.verdict.reason)}, at seed {one.seed}")
                say(f"{'':<21}asked:   {_shortened(one.say)}")
                say(f"{'':<21}replied: {_shortened(one.reply)}")
    if report.facts is not None:
        say()
        say(
            f"{len(report.facts.told)} of {report.facts.count} facts came up in small talk "
            "(a rate; nothing fails by it)"
        )
    say()
    say(
        f"{report.count('pass')} passed, {report.count('fail')} failed, "
        f"{report.count('not_judged')} not judged. Judges are heuristics: read what failed."
    )


_WORDS = {"pass": "passed", "fail": "FAILED", "not_judged": "not judged"}


def _what(persona: Persona, result: Result) -> str:
    if result.kind != "facts":
        return ""
    return f": {plain(persona.facts[int(result.name.removeprefix('fact-')) - 1])}"


def _shortened(text: str) -> str:
    text = " ".join(plain(text).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _report_json(report: Report) -> dict[str, Any]:
    facts = report.facts
    return {
        "prompt": None if report.size is None else _sizes_json(report.size),
        "checks": [
            {
                "name": result.name,
                "kind": result.kind,
                "outcome": result.outcome,
                "reason": result.verdict.reason,
                "passed": result.passed,
                "tries": [
                    {
                        "say": one.say,
                        "seed": one.seed,
                        "reply": one.reply,
                        "outcome": one.verdict.outcome,
                        "reason": one.verdict.reason,
                    }
                    for one in result.tries
                ],
            }
            for result in report.results
        ],
        "facts_told": None if facts is None else {"told": facts.told, "of": facts.count},
        "passed": report.count("pass"),
        "failed": report.count("fail"),
        "not_judged": report.count("not_judged"),
    }


# --- preview ---


def _run_preview(args: argparse.Namespace) -> int:
    persona = find_package(args.persona).persona
    said: list[Exchanged] = []
    last = ""
    if args.conversation is not None:
        try:
            data = read_bounded(args.conversation, MAX_CONVERSATION_BYTES, "a conversation")
        except PersonaError as error:
            raise refused(error) from None
        said, last = read_conversation(data, plain(str(args.conversation)))
    message = args.message or last or _DEFAULT_MESSAGE

    async def work() -> tuple[dict[str, Any], Preview]:
        async with _engine(args, replies=False) as engine:
            try:
                found = await preview(
                    persona, message, engine, said=said, user=args.user, greeting=args.greeting
                )
            except PromptTooLongError:
                raise SottoError(
                    f"persona and message alone do not fit a window of {engine.context_tokens} "
                    "tokens; shorten them, or choose an engine with a wider one",
                    code="prompt_too_long",
                ) from None
            return _engine_json(engine), found

    engine, found = _complete(work())
    if args.json:
        print_json(
            {
                "persona": _persona_json(persona),
                "engine": engine,
                **_sizes_json(found),
                "parts": [
                    {"name": part.name, "tokens": part.tokens, "text": part.text}
                    for part in found.prompt.parts
                ],
                "lore": [
                    {"name": one.name, "keys": one.keys, "constant": one.constant,
                     "placed": one.placed}
                    for one in found.lore
                ],
                "asleep": found.asleep,
                "left_out": found.left_out,
                "messages": [
                    {"role": one.role, "content": one.content} for one in found.prompt.messages
                ],
            }
        )  # fmt: skip
    else:
        _say_preview(found)
    return Exit.OK


def _sizes_json(found: Preview) -> dict[str, Any]:
    return {
        "tokens": found.prompt.tokens,
        "window": found.window,
        "share": round(found.prompt.tokens / found.window, 4),
        "max_reply_tokens": found.prompt.max_reply_tokens,
        "turns": found.prompt.remembered,
        "tokens_by_part": tokens_by_part(found),
    }


def _say_preview(found: Preview) -> None:
    for message in found.prompt.messages:
        say(f"--- {message.role} ---")
        say("\n".join(map(plain, message.content.splitlines())))
        say()
    say("--- sizes ---")
    _say_sizes(found)
    for one in found.lore:
        why = "always" if one.constant else ", ".join(one.keys) or "another entry"
        say(f"lore {plain(one.name)!r}: woken by {plain(why)}" + ("" if one.placed else "; not in"))
    if found.asleep:
        say(f"lore: {counted(found.asleep, 'entry', 'entries')} not woken")
    for line in found.left_out:
        say(f"left out: {plain(line)}")


def _say_sizes(found: Preview) -> None:
    for name, tokens in tokens_by_part(found).items():
        say(f"{name:<14} {tokens:>7,} tokens  {tokens / found.window:>6.1%}")
    share = found.prompt.tokens / found.window
    say(f"{'prompt':<14} {found.prompt.tokens:>7,} tokens  {share:>6.1%} of {found.window:,}")
    say(f"{'reply, at most':<14} {found.prompt.max_reply_tokens:>7,} tokens")
