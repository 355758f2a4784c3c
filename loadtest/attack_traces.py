"""What a watcher writes down of each reply: the times and lengths of sealed chunks, and no more.

The replies come through the real roles: device, relay and enclave, each a process of its own, by
plain Oblivious HTTP. Written down is what arrives at the device's socket.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from loadtest.attack_replies import MODEL, TOKEN_S, PacedModel, Reply, message_of
from loadtest.bench_path import free_ports
from personas.digest import persona_digest
from personas.library import load_library
from runtime.config import EnclaveConfig, EngineConfig
from runtime.enclave.api import TURNS_PATH, to_base64url
from runtime.errors import SottoError
from runtime.up import UpOptions, up
from transport import media, varint
from transport.bhttp import Content, Request, ResponseDecoder, ResponseHead, encode_request
from transport.errors import TransportError
from transport.hpke import TAG_LENGTH
from transport.keyconfig import KeyConfig, choose_config, decode_key_config_list
from transport.ohttp import ChunkedRequestSealer
from transport.shaping import SHAPING_HEADER, Shaping, padded
from transport.sse import EventDecoder

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Trace:
    """One reply as it was watched, and what its reader had of it.

    Attributes:
        reply: What was said; a watcher does not know it.
        shaping: How it was shaped.
        request: Bytes of the sealed request.
        chunks: Of each sealed chunk the seconds since the request was sent, and its bytes.
        first_word, last_word: When the reader had its first and its last token, in seconds.
        completed: When the reader had the final event, in seconds.
        closed: When the stream ended, in seconds.
    """

    reply: Reply
    shaping: Shaping
    request: int
    chunks: tuple[tuple[float, int], ...]
    first_word: float
    last_word: float
    completed: float
    closed: float

    @property
    def total(self) -> int:
        """Sealed bytes of the reply."""
        return sum(size for _, size in self.chunks)


async def record(
    replies: Sequence[Reply],
    *,
    streams: int,
    progress: Callable[[str], None],
    token_s: float = TOKEN_S,
) -> list[Trace]:
    """Ask for each reply in each setting, in an order of chance, `streams` at once.

    What slows the machine for a while then slows each topic and each setting alike.

    Raises:
        SottoError: The system does not start, or a reply failed.
    """
    jobs = [(n, shaping) for n in range(len(replies)) for shaping in Shaping]
    random.Random("order").shuffle(jobs)
    asked, traces = iter(jobs), []
    progress("the attacker: starting a system")
    with tempfile.TemporaryDirectory(prefix="sotto-attack-") as data:
        async with PacedModel(replies, token_s=token_s).serve() as base_url:
            engine = EngineConfig(kind="openai", base_url=base_url, model=MODEL)
            async with up(UpOptions(Path(data), free_ports(), engine)) as system:
                addresses = system.addresses()
                async with _Devices(addresses["relay"], addresses["enclave"]) as devices:

                    async def work() -> None:
                        for number, shaping in asked:
                            traces.append(await devices.ask(number, replies[number], shaping))
                            if len(traces) % 250 == 0:
                                progress(f"the attacker: {len(traces)} of {len(jobs)} replies")

                    try:
                        async with asyncio.TaskGroup() as group:
                            for _ in range(streams):
                                group.create_task(work())
                    except ExceptionGroup as failed:
                        raise failed.exceptions[0] from None  # one says why
    return traces


class _Devices:
    """People whom nobody has met before, each with one question, behind one relay."""

    def __init__(self, relay: str, enclave: str) -> None:
        self._url = f"{relay}/gateway/{EnclaveConfig.model_fields['gateway'].default}"
        self._keys_url = f"{enclave}/ohttp-keys"
        self._persona = next(iter(load_library()))
        self._config: KeyConfig | None = None

    async def __aenter__(self) -> _Devices:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S)
        )
        async with self._http.get(self._keys_url) as response:
            self._config = choose_config(decode_key_config_list(await response.read()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def ask(self, number: int, reply: Reply, shaping: Shaping) -> Trace:
        """One turn of a new thread."""
        assert self._config is not None  # noqa: S101 - entered
        sealer = ChunkedRequestSealer(self._config)
        request = sealer.seal(
            self._request(message_of(number, reply.question), shaping), final=True
        )
        reading = _Reading(reply.text)
        opener, decoder, chunks = sealer.response_opener(), ResponseDecoder(), []
        start = time.perf_counter()
        try:
            async with self._http.post(
                self._url, data=request, headers={"Content-Type": media.OHTTP_CHUNKED_REQUEST}
            ) as response:
                if response.status != 200:
                    raise SottoError(f"the relay or gateway answered {response.status}")
                async for data in response.content.iter_any():
                    now = time.perf_counter() - start
                    for plaintext in opener.feed(data):
                        sealed = len(plaintext) + TAG_LENGTH
                        # Its length stands in front of each sealed chunk, in the clear.
                        chunks.append((now, len(varint.encode(sealed)) + sealed))
                        for event in decoder.feed(plaintext):
                            reading.take(event, now)
            closed = time.perf_counter() - start
            for event in [*decoder.feed(opener.finish()), *decoder.finish()]:
                reading.take(event, closed)
        except (aiohttp.ClientError, TransportError, TimeoutError) as error:
            raise SottoError(f"a reply broke off ({type(error).__name__})") from error
        first, last, completed = reading.times()
        return Trace(reply, shaping, len(request), tuple(chunks), first, last, completed, closed)

    def _request(self, message: str, shaping: Shaping) -> bytes:
        headers = (
            (b"content-type", b"application/json"),
            (b"date", email.utils.formatdate(usegmt=True).encode()),
            (SHAPING_HEADER, shaping.value.encode()),
        )
        body = orjson.dumps(
            {
                "thread_key": to_base64url(os.urandom(32)),
                "turn_id": os.urandom(16).hex(),
                "persona": {
                    "handle": self._persona.handle,
                    "digest": persona_digest(self._persona).hex(),
                },
                "message": message,
            }
        )
        request = Request(b"POST", b"https", b"enclave", TURNS_PATH, headers, body)
        return padded(encode_request(request), shaping)


class _Reading:
    """What the reader of one reply sees, and when."""

    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._events = EventDecoder()
        self._words: list[float] = []
        self._text = ""
        self._completed: float | None = None

    def take(self, event: object, now: float) -> None:
        """Part of the response."""
        if isinstance(event, ResponseHead) and event.status != 200:
            raise SottoError(f"the enclave refused a reply with status {event.status}")
        if not isinstance(event, Content):
            return
        for data in self._events.feed(event.data):
            said = orjson.loads(data)
            if said["type"] == "response.output_text.delta":
                self._words.append(now)
                self._text += said["delta"]
            elif said["type"] == "response.completed":
                self._completed = now

    def times(self) -> tuple[float, float, float]:
        """First word, last word, final event."""
        if self._completed is None or self._text != self._expected:
            raise SottoError("a reply did not come as it was said; nothing can be measured")
        return self._words[0], self._words[-1], self._completed
