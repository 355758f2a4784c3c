"""What memory adds to the time to first token: the agent's own, with a store and without one.

Both agents run in this process with the scripted engine, which does not wait. The one without has
a store that is always empty and needs no server, and neither embedder nor recall. Turns are
incognito, so that a thread is the same for each of them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from loadtest.bench_functions import some_claims
from loadtest.bench_receipts import NoReceipts
from loadtest.rounds import Comparison, Effort, progress
from loadtest.threads import Writer, Written
from memory.keys import ThreadKeys
from memory.store import Opened, ThreadStore
from memory.thread import Position
from memory.view import View
from personas.digest import persona_digest
from personas.library import load_library
from personas.model import Persona
from runtime.enclave.agent import Agent
from runtime.enclave.api import TurnRequest, parse_body, to_base64url
from runtime.enclave.binding import Binding
from runtime.enclave.embedding.static import StaticEmbedder
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.identity import Identity
from runtime.enclave.places import Places
from runtime.enclave.remembering import Remembering
from runtime.enclave.turns import TurnCall
from runtime.enclave.views import Views
from runtime.errors import SottoError
from runtime.telemetry import EnclaveMetrics, MemoryMetrics

_MESSAGE = "Do you remember what I told you about my grandmother and the bread?"
_TURNS = 20  # of each kind in a round
_MOST_MS = {"cold": 5.0, "warm": 1.0}


class NoMemory(ThreadStore):
    """A store that needs no server, and in which every thread is empty."""

    async def open(
        self,
        keys: ThreadKeys,
        *,
        expected: Position | None,
        turn_id: bytes | None = None,
        cached: View | None = None,
    ) -> Opened:
        """Nothing, at once."""
        return Opened(View.empty(keys), None, 0)


@dataclass(frozen=True, slots=True)
class _Agents:
    """The two that take turns, and the views of the one with memory."""

    with_memory: Agent
    without: Agent
    views: Views
    binding: Binding
    persona: Persona


async def first_tokens(
    client: Redis, writer: Writer, lengths: Sequence[int], effort: Effort
) -> list[Comparison]:
    """Milliseconds to the first token with memory, cold and warm, and without, by turns."""
    agents = await _agents(client)
    found = []
    for length in lengths:
        thread = await writer.write(f"turn {length}", length)
        rounds: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
        for number in range(effort.rounds + 1):
            progress(f"memory: first token, {length} turns, round {number}")
            for name, pairs in rounds.items():
                pairs.append(await _round(agents, thread, warm=name == "warm"))
        for name, pairs in rounds.items():
            del pairs[0]  # warms up
            ours = tuple(pairs)
            found.append(Comparison(f"first token {name}, {length} turns", "no memory", "ms", ours))
            most = _MOST_MS[name]
            added = tuple((mine - other, most) for mine, other in ours)
            found.append(
                Comparison(
                    f"added to it {name}, {length} turns", f"at most {most:g} ms", "ms", added
                )
            )
    await agents.with_memory.close(0)
    await agents.without.close(0)
    return found


async def _round(agents: _Agents, thread: Written, *, warm: bool) -> tuple[float, float]:
    """Medians with and without, in milliseconds."""
    waits: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TURNS):
        for agent, of in zip((agents.with_memory, agents.without), waits, strict=True):
            if warm:
                agents.views.put(thread.keys, thread.view)
            else:
                agents.views.drop(thread.keys)
            of.append(await _first_token(agent, _call(agents, thread)) * 1e3)
    return statistics.median(waits[0]), statistics.median(waits[1])


async def _first_token(agent: Agent, call: TurnCall) -> float:
    """Seconds from the call to the first text; the turn is heard to its end."""
    began = time.perf_counter()
    first = 0.0
    async for events in agent.submit(call).follow():
        for event in events:
            if event["type"] == "response.output_text.delta" and not first:
                first = time.perf_counter() - began
            if event["type"] == "response.failed":
                raise SottoError(f"a turn of the bench failed ({event['error']['code']})")
    return first


def _call(agents: _Agents, thread: Written) -> TurnCall:
    persona = agents.persona
    request = {
        "thread_key": to_base64url(bytes(32)),
        "turn_id": os.urandom(16).hex(),
        "persona": {"handle": persona.handle, "digest": persona_digest(persona).hex()},
        "message": _MESSAGE,
        "position": str(thread.position),
        "incognito": {},
    }
    asked = parse_body(TurnRequest, orjson.dumps(request))
    return TurnCall(asked, thread.keys, persona, agents.binding, ThreadKeys(os.urandom(32)))


async def _agents(client: Redis) -> _Agents:
    engine = ScriptedEngine(first_token_s=0, token_s=0, tokens=2)
    embedder = StaticEmbedder().load()
    outbox = NoReceipts(client)
    registry = CollectorRegistry()
    metrics = EnclaveMetrics(registry, queue=lambda: 0, pending=lambda: 0)
    store, views = ThreadStore(client), Views()
    remembering = Remembering(engine, store, views, MemoryMetrics(registry), embedder=embedder)
    places = Places(8, outbox)
    return _Agents(
        Agent(engine, store, outbox, metrics, places=places, remembering=remembering),
        Agent(engine, NoMemory(client), outbox, metrics, places=places),
        views,
        _binding(),
        next(iter(load_library())),
    )


def _binding() -> Binding:
    """An identity that nobody verifies: receipts are dropped here."""
    key, now = Ed25519PrivateKey.generate(), int(time.time())
    claims = some_claims((("bench", bytes(48)),), key, now)
    identity = Identity(claims, b"bench", "", now, (), key)
    return Binding(identity, 1, os.urandom(32), os.urandom(32))
