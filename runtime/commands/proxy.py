"""`sotto proxy`: any OpenAI-compatible program on this machine talks to sealed personas."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import re
import signal
import sys
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from runtime.client.carrier import StreamLostError
from runtime.client.completions import (
    MAX_BODY_BYTES,
    Answer,
    Completions,
    error_object,
    refusal,
    too_large,
)
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.retrying import RETRYABLE
from runtime.commands.common import (
    SIMULATED_LINE,
    add_home,
    add_shaping,
    add_way,
    carrier,
    home_folder,
    load_policy,
    say,
)
from runtime.errors import Exit, SottoError
from runtime.serving import port_error

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8480
ATTESTATION_HEADER: Final = "sotto-attestation"
_OUR_HOST: Final = re.compile(
    r"(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE
)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z*]+")
# Replies that run when the proxy is told to stop are cut: whoever reads them has it in hand.
_SHUTDOWN_S: Final = 0.5
# Receipts come a moment after their answers.
_LAST_RECEIPTS_S: Final = 1.0


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "proxy",
        help="give OpenAI-compatible programs on this machine sealed personas",
        description="Serves /v1/chat/completions and /v1/models on loopback. Everything that a "
        "program sends is sealed on this device for an enclave that was verified.",
    )
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="default: 8480")
    parser.add_argument(
        "--host", default="127.0.0.1", help="a loopback address (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin use the proxy; others are refused",
    )
    parser.add_argument("--json", action="store_true", help="print the address in one line of JSON")
    add_way(parser)
    add_shaping(parser)
    add_home(parser)
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def _origin(text: str) -> str:
    # "null" is every page in a sandbox, whoever wrote it.
    if _ORIGIN.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no origin of a web page: give one as the browser sends it, such as "
            "http://localhost:3000, without a path"
        )
    return text


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if not _is_loopback(args.host):
        raise SottoError(
            f"{args.host} is not a loopback address: whoever can reach this proxy can speak in "
            "your name, so it listens on this machine alone; use 127.0.0.1 or ::1",
            code="not_loopback",
            exit_code=Exit.USAGE,
        )
    policy, _ = load_policy(args)
    home = DeviceHome(home_folder(args))
    try:
        device = Device(home, policy, carrier(args), shaping=args.shaping)
        return asyncio.run(_serve(args, device))
    finally:
        home.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(args: argparse.Namespace, device: Device) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with device:
        await device.enclaves()
        # Not before: nothing below waits for others, so that until here Ctrl-C ends the waiting.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        completions = Completions(device)
        proxy = Proxy(device, completions, frozenset(args.allow_origin))
        # A program that leaves cancels its handler, and with it what an enclave makes for it.
        runner = web.AppRunner(
            proxy.app(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, args.host, args.port).start()
            except OSError as error:
                raise port_error(args.host, args.port, error) from None
            _announce(args, runner.addresses[0][1], simulated=device.simulated)
            await stop.wait()
        finally:
            await runner.cleanup()
        await device.wait_receipts(_LAST_RECEIPTS_S)
    return Exit.OK


def _announce(args: argparse.Namespace, port: int, *, simulated: bool) -> None:
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{port}/v1"
    if simulated:
        sys.stderr.write(SIMULATED_LINE + "\n")
        sys.stderr.flush()
    if args.json:
        line = {"address": address, "simulated": simulated, "shaping": args.shaping}
        say(orjson.dumps(line).decode())
        return
    say(f"Sealed personas for OpenAI-compatible programs: {address}")
    say("Set that as the base URL; any API key will do, and none leaves this machine.")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The HTTP side: who may ask, and how answers are written.

    Args:
        device: Says whether its enclaves are simulated.
        completions: Answers.
        origins: Of web pages that may ask.
    """

    device: Device
    completions: Completions
    origins: frozenset[str]

    def app(self) -> web.Application:
        """The application: every path is answered, most with 404."""
        app = web.Application(client_max_size=MAX_BODY_BYTES + 1)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (answer := self._turned_away(request)) is not None:
            return await self._write(request, answer)
        if request.method == "OPTIONS" and "Origin" in request.headers:
            return web.Response(status=204, headers=self._cors(request))
        try:
            body = await request.read()
            answer = await self.completions.handle(
                request.method, request.path, body, request.rel_url.raw_query_string
            )
        except web.HTTPRequestEntityTooLarge:
            answer = too_large()
        except (StreamLostError, SottoError) as error:
            answer = _failure(error)
        except Exception as error:
            # The exception's own text may quote the conversation, so only its kind is told.
            log.error("defect: %s", type(error).__name__)  # noqa: TRY400
            answer = refusal(500, "internal", f"a defect of this proxy: {type(error).__name__}")
        return await self._write(request, answer)

    def _turned_away(self, request: web.Request) -> Answer | None:
        """What is told to who is not on this machine, or is a web page that was not let in."""
        # A name that a stranger controls can be made to mean 127.0.0.1 (DNS rebinding).
        if _OUR_HOST.fullmatch(request.headers.get("Host", "")) is None:
            return refusal(
                403, "host_refused", "this proxy answers to localhost and 127.0.0.1 alone"
            )
        # Browsers send an Origin with what a page asks across origins; other programs do not.
        # Pictures and links that a page holds come without one, and say that a page sends them.
        origin = request.headers.get("Origin")
        linked = request.headers.get("Sec-Fetch-Site", "none") != "none"
        if origin not in self.origins and (origin is not None or linked):
            return refusal(
                403,
                "origin_refused",
                "web pages may not use this proxy; start it with --allow-origin ORIGIN for those "
                "that may",
            )
        return None

    async def _write(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        headers = {**answer.headers, **self._cors(request), "cache-control": "no-store"}
        if self.device.simulated:
            headers[ATTESTATION_HEADER] = "SIMULATED"
        response = web.StreamResponse(status=answer.status, headers=headers)
        try:
            await response.prepare(request)
            try:
                async for part in answer.content:
                    await response.write(part)
            except (StreamLostError, SottoError) as error:
                await response.write(_last_event(error))
            await response.write_eof()
        except ConnectionError:
            pass  # the program left
        finally:
            await answer.content.aclose()
        return response

    def _cors(self, request: web.Request) -> dict[str, str]:
        """What lets a page of an allowed origin read answers; nothing where no such page asks."""
        origin = request.headers.get("Origin")
        if origin not in self.origins:
            return {}
        asked = request.headers.get("Access-Control-Request-Headers", "content-type")
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": asked,
            "Vary": "Origin",
        }


def _failure(error: StreamLostError | SottoError) -> Answer:
    """What a program is told where no enclave answered."""
    retry = isinstance(error, StreamLostError) or error.code in RETRYABLE
    status = 503 if retry else 502
    return refusal(status, error.code, str(error), retry=retry)


def _last_event(error: StreamLostError | SottoError) -> bytes:
    """The end of a stream that broke, as OpenAI's servers would say it."""
    told = orjson.dumps({"error": error_object(502, error.code, str(error))})
    return b"data: " + told + b"\n\n"
