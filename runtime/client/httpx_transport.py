"""A transport for `httpx`: programs on the `openai` package talk to sealed personas.

    client = openai.OpenAI(http_client=SealedClient(), api_key="-")

Requests go sealed to a verified enclave, by an edge or by relays, and nowhere else: the host in a
request's URL is not looked up, no proxy of the environment is used, no field of the request
travels. Needs `httpx` (the extra ``sottovoce[httpx]``); docs/openai.md tells the rest.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar, Unpack

import httpx

from runtime.client.carrier import StreamLostError
from runtime.client.completions import Completions, Content
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.places import find_carrier, find_home, find_policy
from runtime.errors import SottoError
from transport.shaping import DEFAULT_SHAPING, Shaping

T = TypeVar("T")

_CLOSED: Final = "this client is closed; make a new one"
DEFAULT_TIMEOUT: Final = httpx.Timeout(600.0, connect=10.0)
# Codes of what stands between this device and an enclave, before anything was sealed.
_NO_WAY: Final = frozenset(
    {"edge_away", "relay_away", "enclave_away", "enclave_refused", "closed", "setup", "policy"}
)


class Settings(TypedDict, total=False):
    """Where a device is found and how it talks.

    Attributes:
        edge: An edge's websocket; as `sotto chat --edge`.
        relays: Relays instead of an edge; as `--relay`.
        home: The device's folder; found as the commands find it where None.
        policy: What an enclave must prove; the same.
        allow_simulated: Let simulated evidence pass, where the policy does not.
        shaping: What sizes and times may tell to whoever watches: off, bucket or cadence.
    """

    edge: str | None
    relays: Sequence[str]
    home: str | Path | None
    policy: str | Path | None
    allow_simulated: bool
    shaping: Shaping | str


class AsyncSealedTransport(httpx.AsyncBaseTransport):
    """Sealed requests for `httpx.AsyncClient`, on asyncio.

    Serves ``/v1/chat/completions`` and ``/v1/models``; other paths are answered with 404 here.
    Give the client no proxy and no mounts of its own: they would go around this transport.

    Args:
        settings: See `Settings`; each may be left out.

    Raises:
        SottoError: Both an edge and relays were given, or an address that is none.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self._settings = settings
        self._shaping = Shaping(settings.get("shaping", DEFAULT_SHAPING))
        self._carrier = find_carrier(settings.get("edge"), settings.get("relays", ()))
        self._stack = contextlib.AsyncExitStack()
        self._starting = asyncio.Lock()
        self._completions: Completions | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request.

        Raises:
            httpx.ConnectError: No way to an enclave that holds; says why, and what to do.
            httpx.ReadError: The way broke.
            httpx.ReadTimeout: No answer began within the request's own timeout.
        """
        timeout = _read_timeout(request)
        with _mapped(request):
            body = await request.aread()
            async with asyncio.timeout(timeout):
                completions = await self._started()
                path, _, query = request.url.raw_path.decode("ascii", "replace").partition("?")
                answer = await completions.handle(request.method, path, body, query)
        content = _AsyncContent(answer.content, request, timeout)
        return httpx.Response(answer.status, headers=answer.headers, stream=content)

    async def aclose(self) -> None:
        """Leave; receipts that have not come are asked for by `sotto receipts`."""
        self._closed = True
        await self._stack.aclose()

    async def _started(self) -> Completions:
        """The device, which connects with the first request."""
        async with self._starting:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if self._completions is None:
                async with contextlib.AsyncExitStack() as stack:
                    device = await stack.enter_async_context(self._device(stack))
                    self._completions = Completions(device)
                    self._stack = stack.pop_all()
            return self._completions

    def _device(self, stack: contextlib.AsyncExitStack) -> Device:
        given = self._settings
        folder, policy_file = (
            None if (path := given.get(name)) is None else Path(str(path))
            for name in ("home", "policy")
        )
        folder = find_home(folder)
        policy, _ = find_policy(
            policy_file, folder, allow_simulated=given.get("allow_simulated", False)
        )
        home = DeviceHome(folder)
        stack.callback(home.close)
        return Device(home, policy, self._carrier, shaping=self._shaping)


class SealedTransport(httpx.BaseTransport):
    """Sealed requests for `httpx.Client`, from any number of threads.

    One thread in the background has the device; it ends with `close`. Arguments, paths and errors
    as for `AsyncSealedTransport`.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self._inner = AsyncSealedTransport(**settings)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; see `AsyncSealedTransport.handle_async_request`."""
        request.read()
        response = self.call(self._inner.handle_async_request(request))
        stream = _SyncContent(response.stream, self)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)

    def close(self) -> None:
        """Leave, and end the thread; requests that still run fail."""
        with self._lock:
            loop, thread, self._closed = self._loop, self._thread, True
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._leave(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _leave(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await self._inner.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work in the device's thread, and wait for it."""
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError(_CLOSED)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # Not waited for at the end of a program that never closes its client.
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="sottovoce", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise httpx.ReadError("the client was closed while this request ran") from None
        except BaseException:
            # Ctrl-C in the thread that waits ends what it waits for.
            future.cancel()
            raise


class _AsyncContent(httpx.AsyncByteStream):
    def __init__(self, content: Content, request: httpx.Request, timeout: float | None) -> None:
        self._content = content
        self._parts = aiter(content)
        self._request = request
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self.next()) is not None:
            yield part

    async def next(self) -> bytes | None:
        """The next piece, None at the end."""
        with _mapped(self._request):
            async with asyncio.timeout(self._timeout):
                return await anext(self._parts, None)

    async def aclose(self) -> None:
        await self._content.aclose()


class _SyncContent(httpx.SyncByteStream):
    def __init__(self, content: Any, transport: SealedTransport) -> None:
        self._content = content
        self._transport = transport

    def __iter__(self) -> Iterator[bytes]:
        while (part := self._transport.call(self._content.next())) is not None:
            yield part

    def close(self) -> None:
        # What a closed client had begun was ended with it.
        with contextlib.suppress(RuntimeError):
            self._transport.call(self._content.aclose())


class SealedClient(httpx.Client):
    """For ``openai.OpenAI(http_client=…)``.

    Args:
        timeout: As httpx takes it; the openai package passes its own with each request.
        settings: See `Settings`; each may be left out.
    """

    def __init__(
        self,
        *,
        timeout: httpx.Timeout | float | None = DEFAULT_TIMEOUT,
        **settings: Unpack[Settings],
    ) -> None:
        transport = SealedTransport(**settings)
        super().__init__(transport=transport, timeout=timeout, trust_env=False)


class AsyncSealedClient(httpx.AsyncClient):
    """For ``openai.AsyncOpenAI(http_client=…)``; arguments as for `SealedClient`."""

    def __init__(
        self,
        *,
        timeout: httpx.Timeout | float | None = DEFAULT_TIMEOUT,
        **settings: Unpack[Settings],
    ) -> None:
        transport = AsyncSealedTransport(**settings)
        super().__init__(transport=transport, timeout=timeout, trust_env=False)


@contextlib.contextmanager
def _mapped(request: httpx.Request) -> Iterator[None]:
    """Our errors as those that programs on httpx know, with our text."""
    try:
        yield
    except TimeoutError:
        raise httpx.ReadTimeout("nothing came for long", request=request) from None
    except StreamLostError as error:
        raise httpx.ReadError(str(error), request=request) from error
    except SottoError as error:
        kind = httpx.ConnectError if error.code in _NO_WAY else httpx.ProtocolError
        raise kind(str(error), request=request) from error


def _read_timeout(request: httpx.Request) -> float | None:
    timeout = request.extensions.get("timeout", {}).get("read")
    return timeout if isinstance(timeout, int | float) else None
