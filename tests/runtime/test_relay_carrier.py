"""A device without an edge: straight to relays, which learn as little as an edge does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from personas.library import load_library
from proofs.policy import Policy
from runtime.client.carrier import UNKNOWN_KEY, StreamLostError
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.relays import RelayCarrier
from runtime.client.rows import ReceiptRow
from runtime.client.sealed import Call
from runtime.errors import Exit, SottoError
from tests.e2e.system import System
from tests.runtime.home_support import turns_remembered
from tests.runtime.middle import Middle, Seen
from transport import media
from transport.hpke import KEM_X_WING
from transport.shaping import Shaping

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
WREN = load_library().get("wren")
MODELS = Call(b"GET", b"/v1/models")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for all tests of this file."""
    system = System(tmp_path_factory.mktemp("relays") / "data", ("--engine", "scripted"))
    system.start()
    yield system
    system.stop()


@pytest.fixture
async def relays(system: System) -> AsyncIterator[tuple[Middle, Middle]]:
    """Two relays in front of the system's own."""
    real = f"http://127.0.0.1:{system.port + 1}"
    async with Middle(real).running() as one, Middle(real).running() as other:
        yield one, other


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DeviceHome]:
    """A new device's folder."""
    home = DeviceHome(tmp_path / "home")
    yield home
    home.close()


@pytest.fixture
def policy(system: System) -> Policy:
    """What this system's own devices demand."""
    return Policy.load(system.home / "policy.toml")


async def talk(device: Device, message: str = "hello") -> tuple[str, dict[str, Any]]:
    """One turn: the text that was shown, and the last event; nothing is ever taken back."""
    text, event = "", {}
    async for event in device.turn(WREN, message):
        assert event["type"] != "response.restarted"
        text += event.get("delta", "")
    return text, event


def the_script(text: str) -> bool:
    """Whether this is the engine's whole reply."""
    words = text.split()
    return len(words) == 64 and words[:5] == ["this", "is", "a", "paced", "script"]


async def test_a_turn_and_its_receipt_come_through_a_relay(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """The reply streams, and the receipt is asked for, sealed, until it is settled."""
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        text, final = await talk(device)
        row = await device.wait_settled(final["receipt_id"], 60)
    assert the_script(text)
    assert row is not None
    assert (row.status, row.problem) == ("settled", None)
    assert final["receipt_id"].encode() not in bytes(relays[0].answered)
    assert not any(final["receipt_id"] in one.path for one in relays[0].seen)


async def test_a_relay_learns_the_gateway_and_the_size_and_no_more(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """No field names the program, no cookie is kept, and the media type is the draft's."""

    async def offer_a_cookie(seen: Seen) -> web.Response | None:
        if seen.path != "/gateways":
            return None
        answer = web.json_response({"gateways": ["enclave-0"]})
        answer.set_cookie("who", "device")
        return answer

    relays[0].instead = offer_a_cookie
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        await talk(device)
    (exchange, *_) = relays[0].exchanges
    assert exchange.path == "/gateway/enclave-0"
    assert set(exchange.headers) == {"Host", "Content-Type", "Incremental", "Content-Length"}
    assert exchange.headers["Content-Type"] == media.OHTTP_CHUNKED_REQUEST
    assert exchange.headers["Incremental"] == "?1"
    # RFC 9458 section 4.1: key id, then the KEM: X-Wing, of those that the enclave offers.
    assert exchange.body[1:3] == KEM_X_WING.to_bytes(2, "big")
    assert {name for one in relays[0].seen for name in one.headers} <= set(exchange.headers)


@pytest.mark.parametrize(("shaping", "same"), [(Shaping.BUCKET, True), (Shaping.OFF, False)])
async def test_requests_are_padded_unless_shaping_is_off(
    shaping: Shaping,
    same: bool,
    relays: tuple[Middle, Middle],
    home: DeviceHome,
    policy: Policy,
) -> None:
    """A short message and a longer one have one size on the wire."""
    carrier = RelayCarrier([relays[0].url])
    async with Device(home, policy, carrier, shaping=shaping) as device:
        await talk(device, "yes")
        await talk(device, "no, and I would rather not say why " * 3)
    sizes = {len(one.body) for one in relays[0].exchanges}
    assert (len(sizes) == 1) is same, sizes


async def test_of_two_relays_neither_sees_every_exchange(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """Each exchange goes through one of them, drawn by chance (alike 2^-23 of the time)."""
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        for _ in range(24):
            response = await device.request(MODELS)
            assert response.status == 200
            await response.read()
    counts = [len(one.exchanges) for one in relays]
    assert sum(counts) == 24
    assert min(counts) > 0


async def test_relays_may_call_one_enclave_by_different_names(
    system: System, relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """The device knows it by its bundle, and still draws between them."""

    async def renamed(seen: Seen) -> web.Response | None:
        if seen.path == "/gateways":
            return web.json_response({"gateways": ["enclave.example"]})
        if seen.path.startswith("/gateway/enclave.example"):
            path = seen.path.replace("enclave.example", "enclave-0")
            url = f"http://127.0.0.1:{system.port + 1}{path}"
            headers = {"Content-Type": seen.headers.get("Content-Type", "")}
            async with relays[1]._session.request(
                seen.method, url, data=seen.body or None, headers=headers
            ) as answer:
                return web.Response(
                    body=await answer.read(),
                    status=answer.status,
                    headers={"Content-Type": answer.content_type},
                )
        return None

    relays[1].instead = renamed
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        assert len({one.gateway for one in await device.enclaves()}) == 1
        for _ in range(24):
            await (await device.request(MODELS)).read()
    assert min(len(one.exchanges) for one in relays) > 0


async def test_a_relay_that_dies_between_exchanges_is_left_out(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """The next exchanges go through the other one."""
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        await talk(device)
        await relays[0].stop()
        before = len(relays[1].exchanges)
        for _ in range(3):
            text, _ = await talk(device)
            assert the_script(text)
        assert await turns_remembered(device) == 4
    assert len(relays[1].exchanges) - before >= 3


async def test_a_relay_that_dies_in_the_middle_of_a_reply_costs_no_word(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """The same turn goes through the other one: each word once, one turn remembered."""
    text, final = "", dict[str, Any]()
    ways: list[Middle] = []
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        async for final in device.turn(WREN, "hello"):
            assert final["type"] != "response.restarted"
            text += final.get("delta", "")
            if len(text.split()) >= 5 and not ways:
                ways = [relay for relay in relays if relay.exchanges]
                for relay in ways:
                    await relay.stop()
    assert len(ways) == 1, "one of them died"
    assert the_script(text)
    assert final["type"] == "response.completed"
    assert (home.position("wren") or "").startswith("1.")


async def test_a_gateway_with_new_keys_gets_the_same_turn_once_more(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """After RFC 9458's problem, keys are fetched anew and the turn is sealed again."""
    refusals = [key_problem()]

    async def refuse_once(seen: Seen) -> web.Response | None:
        return refusals.pop() if seen.method == "POST" and refusals else None

    relays[0].instead = refuse_once
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        text, _ = await talk(device)
        asked = [one.path for one in relays[0].seen].count("/gateways")
    assert the_script(text)
    assert (home.position("wren") or "").startswith("1.")
    assert asked == 2


def key_problem() -> web.Response:
    """What a gateway answers that does not hold the key."""
    return web.Response(
        status=400,
        body=orjson.dumps({"type": media.PROBLEM_OHTTP_KEY, "title": "no such key"}),
        content_type=media.PROBLEM_JSON,
    )


async def test_keys_are_fetched_anew_once_and_not_for_ever(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A gateway, or a relay, that always says so gets two sealed requests and no more."""

    async def refuse(seen: Seen) -> web.Response | None:
        return key_problem() if seen.method == "POST" else None

    relays[0].instead = refuse
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        with pytest.raises(StreamLostError) as caught:
            await device.request(MODELS)
    assert caught.value.code == UNKNOWN_KEY
    assert len(relays[0].exchanges) == 2


REFUSALS = {
    413: ("The message is too large", "shorter"),
    415: ("Only OHTTP \x1b[2J", "address"),
    403: ("x" * 5000, "another relay"),
    302: ("", "address"),
    200: ("", "no OHTTP relay"),
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_relays_refusal_is_one_line_that_says_what_to_do(
    status: int,
    relays: tuple[Middle, Middle],
    home: DeviceHome,
    policy: Policy,
) -> None:
    """Whatever its problem details hold; and no redirect is followed with sealed bytes."""
    title, says = REFUSALS[status]
    location = {"Location": f"{relays[1].url}/gateway/enclave-0"}

    async def refuse(seen: Seen) -> web.Response | None:
        if seen.method != "POST":
            return None
        body = orjson.dumps({"type": "about:blank", "title": title})
        return web.Response(
            status=status, body=body, content_type=media.PROBLEM_JSON, headers=location
        )

    relays[0].instead = refuse
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        with pytest.raises(SottoError) as caught:
            await talk(device)
    assert caught.value.code == "relay_refused"
    assert says in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert relays[1].seen == []


LISTS: dict[str, bytes] = {
    "no JSON": b"<html>",
    "no object": b"[]",
    "no list": b'{"gateways": "enclave-0"}',
    "a path": b'{"gateways": ["../../mux"]}',
    "no text": b'{"gateways": [7]}',
    "too many": orjson.dumps({"gateways": [f"g{n}" for n in range(1000)]}),
    "too large": b'{"gateways": ["enclave-0"], "x": "' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("what", LISTS)
async def test_a_relay_that_does_not_speak_as_one_is_away(
    what: str, relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """It is told so in one line; beside a relay that works it does no harm."""

    async def lie(seen: Seen) -> web.Response | None:
        if seen.path != "/gateways":
            return None
        answer = web.Response(body=LISTS[what], content_type="application/json")
        if what == "too large":
            answer.enable_chunked_encoding()  # does not say how large
        return answer

    relays[0].instead = lie
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        with pytest.raises(SottoError) as caught:
            await device.enclaves()
    assert caught.value.code == "relay_away"
    assert relays[0].url in str(caught.value)
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        text, _ = await talk(device)
    assert the_script(text)
    assert relays[0].exchanges == []


BUNDLES: dict[str, object] = {
    "nothing": {"enclaves": []},
    "no list": {"enclaves": {}},
    "no text": {"enclaves": [{"gateway": "enclave-0", "bundle": 1, "proof": None}]},
    "no bundle": {"enclaves": [{"gateway": "enclave-0", "bundle": "AAAA", "proof": ""}]},
    "no base64": {"enclaves": [{"gateway": "enclave-0", "bundle": "ä" * 99, "proof": ""}]},
    "too large": {"enclaves": [], "x": "x" * 5_000_000},
}


@pytest.mark.parametrize("what", BUNDLES)
async def test_nothing_is_sealed_for_what_a_relay_only_says(
    what: str, relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A bundle that does not verify is no enclave, and not one sealed byte leaves the device."""

    async def lie(seen: Seen) -> web.Response | None:
        if seen.path.endswith("/attestation"):
            return web.Response(body=orjson.dumps(BUNDLES[what]), content_type="application/json")
        return None

    relays[0].instead = lie
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        with pytest.raises(SottoError) as caught:
            await device.enclaves()
    assert caught.value.code in ("enclave_away", "enclave_refused")
    assert relays[0].exchanges == []


async def test_relays_that_are_all_away_are_named(home: DeviceHome, policy: Policy) -> None:
    """One line with their addresses and what to do."""
    urls = ["http://127.0.0.1:9", "http://127.0.0.1:10"]
    async with Device(home, policy, RelayCarrier(urls)) as device:
        with pytest.raises(SottoError) as caught:
            await device.enclaves()
    assert caught.value.code == "relay_away"
    assert all(url in str(caught.value) for url in urls)


@pytest.mark.parametrize(
    "url",
    ["", "relay.example", "ws://relay.example", "http://", "https://me:pw@relay.example",
     "https://relay.example/?q=1", "https://relay.example/#x", "http://[::1", "http://a:99999"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    """A usage error that shows it."""
    with pytest.raises(SottoError) as caught:
        RelayCarrier([url])
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize("wrong_by", [4000, 80_000])
async def test_a_clock_that_is_wrong_is_corrected_by_the_enclave(
    wrong_by: int,
    relays: tuple[Middle, Middle],
    home: DeviceHome,
    policy: Policy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Said once; two exchanges for the first turn, and one for the next."""
    carrier = RelayCarrier([relays[0].url])
    with caplog.at_level(logging.WARNING):
        async with Device(home, policy, carrier, clock=lambda: time.time() + wrong_by) as device:
            counts = []
            for _ in range(2):
                before = len(relays[0].exchanges)
                async for _ in device.turn(WREN, "hello"):
                    counts.append(len(relays[0].exchanges) - before)
                    break
    said = [record.message for record in caplog.records if "clock" in record.message]
    assert len(said) == 1
    assert f"{wrong_by // 1000}" in said[0]
    assert "fast" in said[0]
    assert counts == [2, 1]


async def test_a_clock_that_is_wrong_by_more_than_a_day_is_not_touched(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """The device is told to set it, after one exchange."""
    carrier = RelayCarrier([relays[0].url])
    async with Device(home, policy, carrier, clock=lambda: time.time() + 100_000) as device:
        with pytest.raises(SottoError) as caught:
            await talk(device)
    assert caught.value.code == "date"
    assert "clock" in str(caught.value)
    assert len(relays[0].exchanges) == 1


async def test_nothing_said_can_be_read_on_the_way(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """Neither message nor reply nor persona nor thread crosses a relay in clear."""
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        await device.enclaves()
        for relay in relays:
            relay.answered.clear()  # bundles in Base64, in which any four letters may come up
        await talk(device, "my dog Biscuit moved to Quillhampton")
    crossed = b"".join(
        [one.body for relay in relays for one in relay.seen]
        + [bytes(relay.answered) for relay in relays]
    )
    assert len(crossed) > 10_000
    key = home.thread_keys("wren").thread_id
    for word in ("Biscuit", "Quillhampton", "paced script", "wren", key, "thread_key"):
        assert word.encode() not in crossed


async def test_a_stream_that_is_given_up_drops_its_connection(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A relay holds nothing for a device that has left."""
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        turn = device.turn(WREN, "hello")
        async for event in turn:
            if "delta" in event:
                break
        await turn.aclose()  # type: ignore[attr-defined]
        seen = len(relays[0].answered)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.6):
                await asyncio.Event().wait()
        assert len(relays[0].answered) - seen < 2000, "the reply of 1.3 s was not read on"


async def test_receipts_are_asked_for_when_the_padding_has_come(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A relay that sees a new exchange before a cadence ends would know where the words ended."""
    whole: list[int] = []

    async def look(seen: Seen) -> web.Response | None:
        if seen.method == "POST":
            whole.append(relays[0].whole)
        return None

    relays[0].instead = look
    carrier = RelayCarrier([relays[0].url])
    async with Device(home, policy, carrier, shaping=Shaping.CADENCE) as device:
        _, final = await talk(device)
        row = await device.wait_settled(final["receipt_id"], 60)
    assert row is not None
    assert row.status == "settled"
    first, second, *_ = whole
    assert second - first == 1, "the reply was still on its way"


def another_spelling(text: str) -> str:
    """Base64 of the same bytes: with an end that is not needed, or with bits that are not read."""
    data = base64.b64decode(text)
    digits = text.rstrip("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(digits[-1]) | 1]
    found = text + "=" if digits == text else digits[:-1] + other + text[len(digits) :]
    assert base64.b64decode(found, validate=True) == data
    return found


async def test_a_relay_cannot_keep_exchanges_to_itself_by_how_it_writes_a_bundle(
    system: System, relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """Other base64 of the same bytes is the same enclave: the other relay leads to it, too."""

    async def rewrite(seen: Seen) -> web.Response | None:
        if not seen.path.endswith("/attestation"):
            return None
        async with relays[0]._session.get(
            f"http://127.0.0.1:{system.port + 1}{seen.path}"
        ) as answer:
            told = await answer.json()
        for one in told["enclaves"]:
            one["bundle"] = another_spelling(one["bundle"])
        return web.json_response(told)

    relays[0].instead = rewrite
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        await device.enclaves()
        for _ in range(4):
            await talk(device)
        for _ in range(16):
            await (await device.request(MODELS)).read()
        assert len({one.gateway for one in await device.enclaves()}) == 1
    assert min(len(one.exchanges) for one in relays) > 0


async def test_one_relay_that_refuses_is_left_for_the_other(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """Not one turn is lost to it; where both refuse, the device says so at once."""

    async def refuse(seen: Seen) -> web.Response | None:
        return web.Response(status=403) if seen.method == "POST" else None

    relays[0].instead = refuse
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        while not relays[0].exchanges:
            text, _ = await talk(device)
            assert the_script(text)
        relays[1].instead = refuse
        with pytest.raises(SottoError) as caught:
            await talk(device)
    assert caught.value.code == "relay_refused"


@pytest.mark.parametrize("status", [400, 408, 500])
async def test_what_another_sealing_can_mend_is_sealed_again(
    status: int, relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A request that did not open or did not come whole, and a relay that failed once."""
    refusals = [status]

    async def refuse_once(seen: Seen) -> web.Response | None:
        if seen.method != "POST" or not refusals:
            return None
        return web.Response(status=refusals.pop())

    relays[0].instead = refuse_once
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        text, _ = await talk(device)
    assert the_script(text)
    assert len(relays[0].exchanges) >= 2


async def test_a_refusal_that_never_ends_is_not_waited_for(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """Its status is enough."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def refuse(seen: Seen) -> web.Response | None:
        return web.Response(status=403, body=endless()) if seen.method == "POST" else None

    relays[0].instead = refuse
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        with pytest.raises(SottoError) as caught:
            async with asyncio.timeout(60):
                await talk(device)
    assert caught.value.code == "relay_refused"


async def test_a_gateway_that_is_silent_does_not_hide_the_others(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A relay with one gateway away is a relay all the same."""

    async def silent(seen: Seen) -> web.Response | None:
        if seen.path == "/gateways":
            return web.json_response({"gateways": ["enclave-0", "enclave-1"]})
        if seen.path.startswith("/gateway/enclave-1"):
            await asyncio.Event().wait()
        return None

    relays[0].instead = silent
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        text, _ = await talk(device)
    assert the_script(text)


async def test_a_relay_that_is_silent_does_not_hold_up_the_other(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """What the one says is enough to begin with."""

    async def silent(seen: Seen) -> web.Response | None:
        return await asyncio.Future()

    relays[0].instead = silent
    async with Device(home, policy, RelayCarrier([one.url for one in relays])) as device:
        async with asyncio.timeout(8):
            await device.enclaves()
        text, _ = await talk(device)
    assert the_script(text)


async def test_many_late_receipts_are_asked_for_a_few_at_a_time(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """A device that was away for long does not fall upon its relays."""
    at_once, most = 0, 0

    async def count(seen: Seen) -> web.Response | None:
        nonlocal at_once, most
        if seen.method == "POST":
            at_once += 1
            most = max(most, at_once)
            await asyncio.Event().wait() if at_once > 30 else await asyncio.sleep(0.05)
            at_once -= 1
        return None

    relays[0].instead = count
    late = [f"{number:032x}" for number in range(40)]
    for one in late:
        home.expect_receipt(ReceiptRow(one, "", "wren", "0" * 64, 0, "completed", bytes(64)))
    async with Device(home, policy, RelayCarrier([relays[0].url])) as device:
        waiting = [asyncio.create_task(device.wait_settled(one, 60)) for one in late]
        async with asyncio.timeout(60):
            while len(relays[0].exchanges) <= 80:  # noqa: ASYNC110 - the relay has no event for it
                await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
    assert most <= 8


async def test_a_carrier_that_was_closed_says_so(
    relays: tuple[Middle, Middle], home: DeviceHome, policy: Policy
) -> None:
    """In the error that programs know."""
    carrier = RelayCarrier([relays[0].url])
    async with Device(home, policy, carrier) as device:
        (enclave,) = await device.enclaves()
    for asking in (carrier.open_stream(enclave.gateway), carrier.enclaves()):
        with pytest.raises(SottoError) as caught:
            await asking
        assert caught.value.code == "closed"
