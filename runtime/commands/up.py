"""`sotto up`: the whole system on this machine, and a chat where there is a terminal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from runtime.client.places import DEFAULT_EDGE
from runtime.commands.common import SIMULATED_LINE, dim, note, say, wrapped
from runtime.config import EngineConfig
from runtime.errors import Exit, SetupError
from runtime.up import Running, UpOptions, up


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "up",
        help="run everything on this machine: Valkey, witness, log, enclave, relay, edge",
        description="Runs the whole system on this machine and, in a terminal, opens a chat. "
        "All of it stops with the chat, or with Ctrl-C where there is none. "
        "docs/configuration.md says what stands where.",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder for what stays (default: data)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8470,
        help="the edge's port; the other roles take the next four, metrics the ports 1000 above "
        "(default: 8470)",
    )
    parser.add_argument(
        "--engine",
        choices=["embedded", "vllm", "openai", "scripted"],
        default="embedded",
        help="what answers (default: embedded, a toy); docs/engines.md",
    )
    parser.add_argument("--model", help="folder or name of a model, for vllm and openai")
    parser.add_argument("--base-url", help="the openai engine's server, on loopback")
    parser.add_argument("--persona", default="wren", help="whom the chat is with (default: wren)")
    parser.add_argument("--no-chat", action="store_true", help="serve only, even in a terminal")
    parser.add_argument("--redis-url", help="a Redis of your own instead of the embedded Valkey")
    parser.add_argument(
        "--debug",
        action="store_true",
        help="a debug enclave: it shows each built prompt to its device and says DEBUG",
    )
    parser.add_argument(
        "--allow-simulated",
        action="store_true",
        help="run without confidential hardware; every screen says SIMULATED",
    )
    parser.add_argument(
        "--collateral",
        type=Path,
        metavar="DIR",
        help="what vendors publish about this machine's hardware (docs/collection.md)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check_engine(args)
    if not args.allow_simulated:
        _try_hardware(args.collateral)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    options = UpOptions(
        data=args.data,
        port=args.port,
        engine=EngineConfig(kind=args.engine, model=args.model, base_url=args.base_url),
        simulated=args.allow_simulated,
        collateral=args.collateral,
        debug=args.debug,
        redis_url=args.redis_url,
    )
    try:
        return asyncio.run(_run(args, options))
    except OSError as error:  # a full disk, above all
        raise SetupError(
            f"the data folder {args.data} cannot be used ({error.strerror or error}); look at the "
            "disk, or choose another with --data, or `make run DATA=FOLDER`",
            code="folder",
        ) from error


def _check_engine(args: argparse.Namespace) -> None:
    """Say what an engine lacks before anything is started."""
    needed = {
        "vllm": (("--model FOLDER", args.model),),
        "openai": (("--base-url URL", args.base_url), ("--model NAME", args.model)),
    }
    missing = [option for option, given in needed.get(args.engine, ()) if not given]
    if missing:
        raise SetupError(
            f"the engine {args.engine} needs {' and '.join(missing)}; docs/engines.md has examples"
        )


def _try_hardware(collateral: Path | None) -> None:
    """Say in one line what is missing, before anything is started."""
    from runtime.enclave.tee.platform import HardwarePlatform

    try:
        HardwarePlatform.boot(collateral)
    except SetupError as error:
        raise SetupError(
            f"{error}. `sotto attest` lists what this machine has; to run without confidential "
            "hardware, with evidence that proves nothing about the machine, say so with "
            "--allow-simulated",
            code=error.code,
        ) from None


async def _run(args: argparse.Namespace, options: UpOptions) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    started = time.monotonic()
    sys.stderr.write(f"Starting ({options.engine.kind})…\n")
    ready = asyncio.Event()
    serving = asyncio.create_task(_serve(args, options, stop, ready, started))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if serving.done() or ready.is_set():
        return await serving
    sys.stderr.write("Stopping…\n")
    serving.cancel()  # stopped while it started: the way out stops what was started
    await asyncio.gather(serving, return_exceptions=True)
    return Exit.INTERRUPTED


async def _serve(
    args: argparse.Namespace,
    options: UpOptions,
    stop: asyncio.Event,
    ready: asyncio.Event,
    started: float,
) -> int:
    async with up(options) as running:
        ready.set()
        _announce(running, time.monotonic() - started)
        code: int = Exit.OK
        if sys.stdin.isatty() and sys.stdout.isatty() and not args.no_chat:
            code = await _chat(args, options, stop)
        else:
            await stop.wait()
        sys.stderr.write("Stopping…\n")
        return code


def _announce(running: Running, seconds: float) -> None:
    addresses = " ".join(f"{name}={url}" for name, url in running.addresses().items())
    say(wrapped(f"Sottovoce is ready {addresses}", sys.stdout))
    options = running.options
    said = (
        SIMULATED_LINE
        if options.simulated
        else f"devices need a policy in {options.policy_file}: docs/policy.md"
    )
    line = f"in {seconds:.1f} s · data in {options.data} · {said}"
    say(dim(wrapped(line, sys.stdout)))
    if options.edge_url != DEFAULT_EDGE:
        note(f"Commands in other terminals find it by: export SOTTO_EDGE={options.edge_url}")


async def _chat(args: argparse.Namespace, options: UpOptions, stop: asyncio.Event) -> int:
    """Open a chat in this terminal with the very command a person would type."""
    command = ["chat", args.persona, "--edge", options.edge_url, "--home", str(options.home)]
    if options.simulated:
        command.append("--allow-simulated")
    if args.debug:
        command.append("--show-prompt")
    say(dim(f"$ sotto {shlex.join(command)}\n"))
    # In this terminal's own process group: Ctrl-C stops a reply there and nothing here.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    chat = (sys.executable, "-P", "-m", "runtime", *command)
    process = await asyncio.create_subprocess_exec(*chat)
    ended = asyncio.create_task(process.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        process.terminate()
    stopped.cancel()
    code = await ended
    return Exit.OK if stop.is_set() else code
