"""After the reply: notes, summaries and the state, made in the background and made up for later."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from memory.errors import ConflictError
from memory.keys import ThreadKeys
from memory.records import Notes, Record, Ref, Tombstone, Turn
from memory.store import STATE_EVERY, ThreadStore
from memory.thread import Position
from memory.view import View
from personas.model import MemoryPolicy
from runtime.enclave.engines.base import Delta, EngineError, FinishReason, Message, Sampling
from runtime.enclave.engines.scripted import ScriptedEngine
from runtime.enclave.remembering import Job, Remembering
from runtime.enclave.views import Views
from runtime.telemetry import MemoryMetrics
from tests.runtime.enclave_world import static_embedder


class Secretary(ScriptedEngine):
    """Follows instructions: answers with what it was given, and keeps what it was asked."""

    instructable = True

    def __init__(self, *answers: str | EngineError) -> None:
        super().__init__(first_token_s=0, token_s=0)
        self.answers = list(answers)
        self.asked: list[tuple[list[Message], Sampling]] = []
        self.busy = 0
        self.looked = asyncio.Event()

    def queued(self) -> int:
        """As the test says."""
        self.looked.set()
        return self.busy

    async def stream(
        self,
        request_id: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        cache_salt: str,
    ) -> AsyncGenerator[Delta, None]:
        """The next answer, in one piece."""
        self.asked.append((list(messages), sampling))
        answer = self.answers.pop(0) if self.answers else '{"facts": []}'
        if isinstance(answer, EngineError):
            raise answer
        yield Delta(answer, 1, FinishReason.STOP)


@dataclass
class Mind:
    """A thread, and an enclave that takes notes of it."""

    store: ThreadStore
    remembering: Remembering
    metrics: CollectorRegistry
    keys: ThreadKeys = field(default_factory=lambda: ThreadKeys(os.urandom(32)))
    said: int = 0

    async def view(self) -> View:
        """The thread as it stands."""
        return (await self.store.open(self.keys, expected=None)).view

    async def say(self, message: str, reply: str = "I see.", at: int = 1_700_000_000) -> Position:
        """A turn that is in memory."""
        self.said += 1
        turn = Turn(os.urandom(16), at + self.said, message, reply, "completed", os.urandom(16))
        return await self.store.append(self.keys, (await self.view()).position, [turn])

    async def note(
        self, position: Position, *, window: int = 0, policy: MemoryPolicy | None = None
    ) -> View:
        """Let notes be taken; the thread after it."""
        self.remembering.put(Job(self.keys, policy or MemoryPolicy(), position, window))
        await self.remembering.settled()
        return await self.view()

    async def records(self) -> list[Record | None]:
        """All of them."""
        position = (await self.view()).position
        return [record async for _, record in self.store.scan(self.keys, position=position)]

    def count(self, name: str, **labels: str) -> float:
        """A counter."""
        return self.metrics.get_sample_value(name, labels) or 0


@pytest.fixture
def minded(redis_client: Redis) -> Any:
    """Makes minds on the shared server."""

    def make(engine: ScriptedEngine | None = None, **options: Any) -> Mind:
        registry = CollectorRegistry()
        store = ThreadStore(redis_client)
        remembering = Remembering(
            engine or ScriptedEngine(),
            store,
            Views(),
            MemoryMetrics(registry),
            **{"embedder": static_embedder(), **options},
        )
        return Mind(store, remembering, registry)

    return make


def facts(*texts: str, about: str = "user.dog.name") -> str:
    """A model's answer."""
    learned = [{"text": text, "about": about, "importance": 70, "replaces": 0} for text in texts]
    return json.dumps({"facts": learned})


async def test_what_a_person_says_of_themselves_becomes_a_fact(minded: Any) -> None:
    """By rules, where the engine follows no instructions; with its turn and its embedding."""
    mind = minded()
    view = await mind.note(await mind.say("My name is Ann and my dog is called Rex."))
    texts = [fact.text for fact in view.facts()]
    assert any("Ann" in text for text in texts)
    assert any("Rex" in text for text in texts)
    notes = (await mind.records())[1]
    assert isinstance(notes, Notes)
    assert notes.turn == 0
    assert notes.model == view.model == static_embedder().id
    assert len(notes.vector) == static_embedder().dim
    assert all(fact.sources == (0,) and fact.vector for fact in notes.facts)
    assert mind.count("sotto_memory_facts_total") == len(texts)
    assert mind.count("sotto_memory_notes_total", outcome="made") == 1


async def test_a_turn_that_says_nothing_is_noted_too(minded: Any) -> None:
    """Its embedding makes it found again, and whoever watches cannot tell what was learned."""
    mind = minded()
    view = await mind.note(await mind.say("Nice weather, isn't it?"))
    assert view.position.length == 2
    assert (view.facts(), view.unnoted()) == ([], ())


async def test_a_model_is_asked_where_it_follows_instructions(minded: Any) -> None:
    """Under a schema, about the message alone, and what it makes up is not believed."""
    engine = Secretary(facts("The user has a dog called Rex", "The user lives on the moon"))
    mind = minded(engine)
    await mind.note(await mind.say("hello", "Do you have a dog?"))
    engine.asked.clear()
    engine.answers = [facts("The user has a dog called Rex", "The user lives on the moon")]
    view = await mind.note(await mind.say("Yes, a dog called Rex"))
    ((messages, sampling),) = engine.asked
    assert sampling.json_schema is not None
    assert sampling.temperature == 0
    assert "Yes, a dog called Rex" in messages[-1].content
    assert "Do you have a dog?" in messages[-1].content
    assert [fact.text for fact in view.facts()] == ["The user has a dog called Rex"]


@pytest.mark.parametrize("answer", ["", "no", "{", '{"facts": [{"text": 1}]}', "[]" * 50_000])
async def test_an_answer_that_is_none_teaches_nothing(minded: Any, answer: str) -> None:
    """The turn has its notes all the same, and is not asked about for ever."""
    mind = minded(Secretary(answer))
    view = await mind.note(await mind.say("My dog is called Rex"))
    assert (view.facts(), view.unnoted(), view.position.length) == ([], (), 2)


async def test_what_failed_is_made_up_for_at_the_next_turn(minded: Any, caplog: Any) -> None:
    """An engine that broke leaves the turn without notes; nothing of it is in the log."""
    engine = Secretary(EngineError("Rex broke it"), facts("The user has a dog called Rex"))
    mind = minded(engine)
    view = await mind.note(await mind.say("I have a dog called Rex"))
    assert [index for index, _ in view.unnoted()] == [0]
    assert mind.count("sotto_memory_notes_total", outcome="failed") == 1
    assert "EngineError" in caplog.text
    assert "Rex" not in caplog.text
    view = await mind.note(await mind.say("It rains"))
    assert view.unnoted() == ()
    assert [fact.text for fact in view.facts()] == ["The user has a dog called Rex"]
    assert len(engine.asked) == 3


async def test_a_model_that_cannot_read_the_question_is_replaced_by_rules(minded: Any) -> None:
    """Else such a turn would be asked about for ever."""
    engine = Secretary(EngineError("no", code="invalid_messages"))
    mind = minded(engine)
    view = await mind.note(await mind.say("My dog is called Rex"))
    assert any("Rex" in fact.text for fact in view.facts())
    engine.context_tokens = 100
    engine.asked.clear()
    view = await mind.note(await mind.say("My cat is called Tom"))
    assert engine.asked == []
    assert any("Tom" in fact.text for fact in view.facts())


async def test_turns_of_an_enclave_that_died_are_noted_by_the_next(minded: Any) -> None:
    """A turn without notes says so by itself."""
    mind = minded()
    await mind.say("My dog is called Rex")
    await mind.say("I live in Lyon")
    view = await mind.note(await mind.say("hello"))
    assert view.unnoted() == ()
    assert view.position.length == 6
    assert {
        source
        for fact in (await mind.records())
        if isinstance(fact, Notes)
        for one in fact.facts
        for source in one.sources
    } == {0, 1}


async def test_a_devices_position_stays_on_the_chain(minded: Any) -> None:
    """Notes come after the place that the device was told; it can still prove its place."""
    mind = minded()
    place = await mind.say("My dog is called Rex")
    view = await mind.note(place)
    assert view.position.length > place.length
    opened = await mind.store.open(mind.keys, expected=place)
    assert opened.view.position == view.position
    after = await mind.say("hello")
    assert (await mind.store.open(mind.keys, expected=place)).view.position == after


async def test_two_enclaves_note_a_turn_once(minded: Any) -> None:
    """Both try, one appends, the other sees that it is done."""
    engines = [Secretary(), Secretary()]
    one, two = map(minded, engines)
    two.keys = one.keys
    position = await one.say("My dog is called Rex")
    for engine, mind in zip(engines, (one, two), strict=True):
        engine.busy = 1
        mind.remembering.put(Job(mind.keys, MemoryPolicy(), position, 0))
    for engine in engines:  # both have the thread open where it has no notes
        await engine.looked.wait()
    for engine in engines:
        engine.busy = 0
    await asyncio.gather(one.remembering.settled(), two.remembering.settled())
    kinds = [type(record) for record in await one.records()]
    assert kinds == [Turn, Notes]
    outcomes = [mind.count("sotto_memory_notes_total", outcome="made") for mind in (one, two)]
    assert outcomes == [1, 1]


async def test_turns_that_come_while_notes_are_made_lose_nothing(minded: Any) -> None:
    """Compare-and-append: each writer goes on after the other."""
    engine = Secretary()
    engine.busy = 1
    mind = minded(engine)
    position = await mind.say("My dog is called Rex")

    async def talk() -> None:
        for number in range(12):
            while True:
                try:
                    await mind.say(f"I have {number} apples")
                    break
                except ConflictError:
                    continue
            engine.busy = 0

    mind.remembering.put(Job(mind.keys, MemoryPolicy(), position, 0))
    await engine.looked.wait()
    await talk()
    await mind.remembering.settled()
    assert mind.count("sotto_memory_notes_total", outcome="made") == 1
    view = await mind.note((await mind.view()).position)
    view = await mind.note(view.position)
    assert view.unnoted() == ()
    records = await mind.records()
    assert sum(isinstance(one, Turn) for one in records) == 13
    assert sorted(one.turn for one in records if isinstance(one, Notes)) == [
        at for at, one in enumerate(records) if isinstance(one, Turn)
    ]


async def test_the_personas_policy_is_obeyed(minded: Any) -> None:
    """No facts where it wants none, no vectors where nothing is recalled, nothing at all."""
    engine = Secretary()
    mind = minded(engine)
    position = await mind.say("My dog is called Rex")
    nothing = MemoryPolicy(facts=False, recall=False, summary=False)
    assert (await mind.note(position, policy=nothing)).position == position
    view = await mind.note(position, policy=MemoryPolicy(facts=False))
    assert (view.facts(), view.position.length) == ([], 2)
    assert engine.asked == []


async def test_turns_before_the_window_are_summed_up(minded: Any) -> None:
    """When enough of them lie there; and the next summary begins where this one ended."""
    engine = Secretary()
    mind = minded(engine)
    for number in range(9):
        position = await mind.say(f"This is matter {number}")
        view = await mind.note(position)
    assert view.summary is None
    window = view.turns[8][0]
    engine.answers = ["They spoke of eight matters."]
    view = await mind.note(view.position, window=window)
    assert view.summary is not None
    at, summary = view.summary
    assert (summary.text, summary.before) == ("They spoke of eight matters.", window - 1)
    assert at == view.position.length - 1
    asked = engine.asked[-1][0][-1].content
    assert "matter 7" in asked
    assert "matter 8" not in asked
    assert mind.count("sotto_memory_summaries_total") == 1
    again = await mind.note(view.position, window=window)
    assert again.position == view.position, "there is nothing new to sum up"


async def test_turns_are_summed_up_before_they_leave_the_view(minded: Any) -> None:
    """However wide the window is, so that no turn is neither in it nor in a summary."""
    engine = Secretary()
    mind = minded(engine)
    for number in range(64):
        await mind.say(f"This is matter {number}")
    turns = (await mind.view()).turns
    while (view := await mind.view()).unnoted():
        engine.answers = [*['{"facts": []}'] * 8, "Earlier matters."]
        await mind.note(view.position)
    assert view.summary is not None
    assert view.summary[1].before == turns[15][0] + 1


async def test_the_state_is_kept_when_it_is_due(minded: Any, redis_client: Redis) -> None:
    """Every so many records; the next enclave opens it instead of all of them."""
    mind = minded()
    name = f"{{t:{mind.keys.thread_id}}}:state"
    for number in range(STATE_EVERY // 2):
        assert await redis_client.get(name) is None
        await mind.note(await mind.say(f"I have {number} cats"))
    assert await redis_client.get(name) is not None
    opened = await mind.store.open(mind.keys, expected=None)
    assert opened.covered == STATE_EVERY


async def test_a_forgotten_thread_is_let_go_of(minded: Any, redis_client: Redis) -> None:
    """Nothing is appended after, and what was open is dropped."""
    engine = Secretary()
    engine.busy = 1
    mind = minded(engine)
    mind.remembering.put(Job(mind.keys, MemoryPolicy(), await mind.say("My dog is Rex"), 0))
    await engine.looked.wait()
    assert mind.remembering.pending() == 1
    await mind.remembering.forget(mind.keys)
    await mind.store.forget(mind.keys, bytes(16))
    engine.busy = 0
    await mind.remembering.settled()
    assert mind.remembering.views.get(mind.keys) is None
    assert await redis_client.exists(f"{{t:{mind.keys.thread_id}}}:records") == 0
    assert engine.asked == []


async def test_notes_of_a_thread_that_was_forgotten_elsewhere_end_quietly(
    minded: Any, caplog: Any
) -> None:
    """Another enclave erased it; that is no failure."""
    mind = minded()
    position = await mind.say("My dog is called Rex")
    await mind.store.forget(mind.keys, bytes(16))
    mind.remembering.put(Job(mind.keys, MemoryPolicy(), position, 0))
    await mind.remembering.settled()
    assert mind.count("sotto_memory_notes_total", outcome="forgotten") == 1
    assert caplog.text == ""


async def test_the_engine_is_left_to_those_who_wait(minded: Any) -> None:
    """While it has requests nothing is asked of it; when it has none, it is."""
    engine = Secretary()
    engine.busy = 1
    mind = minded(engine)
    mind.remembering.put(Job(mind.keys, MemoryPolicy(), await mind.say("My dog is Rex"), 0))
    await engine.looked.wait()
    await asyncio.sleep(0.1)
    assert engine.asked == []
    engine.busy = 0
    await mind.remembering.settled()
    assert len(engine.asked) == 1


async def test_more_threads_than_may_wait_are_left_to_their_next_turn(minded: Any) -> None:
    """Nothing grows without end, and nothing is lost by it."""
    engine = Secretary()
    engine.busy = 1
    mind = minded(engine, at_once=1, capacity=1)
    position = await mind.say("My dog is called Rex")
    others = [ThreadKeys(os.urandom(32)) for _ in range(2)]
    for keys in (mind.keys, *others):
        mind.remembering.put(
            Job(keys, MemoryPolicy(), position if keys is mind.keys else Position.genesis(keys), 0)
        )
    assert mind.remembering.pending() == 2
    assert mind.count("sotto_memory_notes_total", outcome="left") == 1
    await mind.remembering.close(0)
    assert mind.remembering.pending() == 0
    mind.remembering.put(Job(mind.keys, MemoryPolicy(), position, 0))
    assert mind.remembering.pending() == 0, "one that is closed takes no more"


async def test_open_views_are_few_and_for_their_keys_alone(minded: Any) -> None:
    """The one used longest ago goes first; a name without its keys opens nothing."""
    mind = minded()
    view = await mind.note(await mind.say("My dog is called Rex"))
    views = Views(most=2, most_bytes=10**9)
    many = [ThreadKeys(bytes([number]) * 32) for number in range(3)]
    for keys in many:
        views.put(keys, view)
    assert [views.get(keys) is not None for keys in many] == [False, True, True]
    thief = ThreadKeys(os.urandom(32))
    thief.thread_id = many[1].thread_id
    assert views.get(thief) is None
    assert views.costs(thief) is not views.costs(many[1])
    views.costs(many[1])[0] = 5
    views.put(many[1], View.empty(many[1]))
    assert views.get(many[1]) is view, "one that is further back takes no place"
    views.put(many[1], view)
    assert views.costs(many[1]) == {0: 5}
    views.drop(many[1])
    assert (views.get(many[1]), views.costs(many[1])) == (None, {})
    assert views.nbytes == view.nbytes
    views.clear()
    assert (len(views), views.nbytes) == (0, 0)


async def test_open_views_take_only_so_much_memory_and_time(minded: Any) -> None:
    """What was said stands in them in the clear."""
    mind = minded()
    view = await mind.note(await mind.say("My dog is called Rex"))
    views = Views(most_bytes=int(2.5 * view.nbytes), ttl_s=0.05)
    many = [ThreadKeys(bytes([number]) * 32) for number in range(3)]
    for keys in many:
        views.put(keys, view)
    assert [views.get(keys) is not None for keys in many] == [False, True, True]
    assert Views(most_bytes=1).get(many[0]) is None
    async with asyncio.timeout(60):
        while len(views):  # noqa: ASYNC110 - a timer of the loop's
            await asyncio.sleep(0.01)
    assert views.nbytes == 0


async def test_nothing_is_noted_that_rests_on_what_is_erased_meanwhile(minded: Any) -> None:
    """The model was shown what came before; what it answers counts only while that is there."""
    engine = Secretary(facts("The user's dog eats porridge."))
    mind = minded(engine)
    await mind.note(await mind.say("My dog is called Rex", "Does Rex eat porridge?"))
    engine.busy = 1
    position = await mind.say("My dog eats it")
    engine.looked.clear()
    mind.remembering.put(Job(mind.keys, MemoryPolicy(), position, 0))
    await engine.looked.wait()  # the thread is open, and the model not asked yet
    tombstone = Tombstone(os.urandom(16), 1, (Ref(0),), (0,))
    await mind.store.append(mind.keys, position, [tombstone], erase=[0])
    engine.answers = [facts("The user's dog eats porridge.")]
    engine.busy = 0
    await mind.remembering.settled()
    view = await mind.view()
    assert [one.text for one in view.facts()] == []
    assert len(view.unnoted()) == 1, "the next turn makes good for it"
