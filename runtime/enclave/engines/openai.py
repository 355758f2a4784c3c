"""Any OpenAI-compatible server that runs inside the same enclave, read over SSE.

The server sees plaintext, so it must be inside the trust boundary: the address is refused
unless it is loopback, and what serves behind it is part of the release that is measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling
from transport.errors import TransportError
from transport.sse import EventDecoder

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
# Servers share no tokenizer with us. English is near 4 bytes per token; 3 leaves room.
_BYTES_PER_TOKEN = 3


class OpenAiEngine:
    """`Engine` over ``POST {base_url}/chat/completions`` with ``stream: true``.

    Args:
        base_url: For instance ``http://127.0.0.1:8000/v1``; loopback only.
        model: Name of the model as the server knows it.
        api_key: Sent as a bearer token where the server wants one.
        context_tokens: The model's window; the API has no standard way to ask.
    """

    name = "openai"
    instructable = True

    def __init__(
        self, base_url: str, model: str, *, api_key: str | None = None, context_tokens: int = 4096
    ) -> None:
        _require_loopback(base_url)
        self.model = model
        self.context_tokens = context_tokens
        self.notice: str | None = None
        self._url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._running: dict[str, aiohttp.ClientResponse | None] = {}
        self._aborted: set[str] = set()

    async def start(self) -> None:
        """Check that the server answers and knows the model."""
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)
        )
        try:
            async with self._session.get(f"{self._url}/models") as response:
                listed = await response.json(loads=orjson.loads)
            names = {entry["id"] for entry in listed["data"]}
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            await self.close()
            raise EngineError(
                f"no OpenAI-compatible server answers at {self._url} ({type(error).__name__}); "
                "start it first, or correct the address",
                code="engine_start",
            ) from error
        if self.model not in names:
            await self.close()
            raise EngineError(
                f"the server at {self._url} does not serve {self.model!r}; it serves "
                f"{', '.join(sorted(names)) or 'nothing'}",
                code="engine_start",
            )

    async def close(self) -> None:
        """Drop every connection to the server."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def manifest(self) -> dict[str, str]:
        """Only the name: the API tells nothing of the weights."""
        return {"name": hashlib.sha256(self.model.encode()).hexdigest()}

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """An upper estimate from bytes; the API has no tokenizer to ask."""
        return sum(4 + len(m.content.encode()) // _BYTES_PER_TOKEN for m in messages)

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`. `cache_salt` travels as vLLM's servers take it."""
        if self._session is None:
            raise EngineError("the engine is not started")
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "stream": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "cache_salt": cache_salt,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.json_schema is not None:
            schema = {"name": "answer", "schema": orjson.loads(sampling.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        self._running[request_id] = None
        try:
            async with self._session.post(
                f"{self._url}/chat/completions",
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json"},
            ) as response:
                if response.status != 200:
                    raise EngineError(f"the model server answered {response.status}")
                self._running[request_id] = response
                async for delta in _read(response):
                    # What had arrived before the connection was closed is no longer the reply.
                    if request_id in self._aborted:
                        break
                    yield delta
                    if delta.finish is not None:
                        return
            if request_id in self._aborted:
                yield Delta("", 0, FinishReason.CANCELLED)
                return
            raise EngineError("the model server ended its stream without a finish reason")
        except (aiohttp.ClientError, TimeoutError, TransportError, ValueError) as error:
            if request_id in self._aborted:
                yield Delta("", 0, FinishReason.CANCELLED)
                return
            raise EngineError(
                f"the model server broke off ({type(error).__name__}); see its own log"
            ) from error
        finally:
            self._running.pop(request_id, None)
            self._aborted.discard(request_id)

    async def abort(self, request_id: str) -> None:
        """Close the connection; every server of this kind takes that as a cancel."""
        if request_id in self._running:
            self._aborted.add(request_id)
            if response := self._running[request_id]:
                response.close()
                # Let the reader see the closed connection before the caller goes on.
                await asyncio.sleep(0)

    def queued(self) -> int:
        """Requests sent and not finished."""
        return len(self._running)


async def _read(response: aiohttp.ClientResponse) -> AsyncGenerator[Delta, None]:
    decoder = EventDecoder()
    async for data in response.content.iter_any():
        for event in decoder.feed(data):
            if event == b"[DONE]":
                return
            choices = orjson.loads(event).get("choices") or []
            if not choices:
                continue  # a usage report
            choice = choices[0]
            text = (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason")
            finish = _FINISH.get(reason, FinishReason.STOP) if reason else None
            if text or finish:
                yield Delta(text, 1 if text else 0, finish)


def _require_loopback(base_url: str) -> None:
    host = urlsplit(base_url).hostname or ""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise EngineError(
            f"the model server {host!r} is outside this enclave, where the conversation would be "
            "readable; run it on loopback inside the enclave",
            code="engine_start",
        )
