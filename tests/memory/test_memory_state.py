"""Sealed states: of one thread and place, in one form, bounded, and with little told by size."""

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from memory.errors import CorruptError, InvalidInputError
from memory.kinds import to_fields
from memory.records import Fact, Notes, Summary, Turn
from memory.state import MAX_STATE_BYTES, covered, open_state, seal_state
from memory.thread import Position
from memory.view import View
from tests.memory.threads import KEYS, OTHER, turn

NONCE = b"n" * 12
HEAD = b"h" * 32


def _view(turns: int = 3, reply: str = "") -> View:
    said = [(index, turn(index, reply=reply)) for index in range(turns)]
    learned = Notes(0, facts=(Fact("The dog is Rex.", "user.dog", sources=(0,)),))
    summary = Summary("They spoke of a dog.", turns, 5)
    more = [(turns, learned), (turns + 1, summary)]
    return View.empty(KEYS).fold([*said, *more], Position(turns + 2, HEAD))


def _sealed(plaintext: bytes, length: int = 5, head: bytes = HEAD) -> bytes:
    """Seal any content, as somebody with the thread key could."""
    header = b"%010d\x02" % length + head
    place = b"sottovoce memory v2 state\x00" + bytes.fromhex(KEYS.thread_id) + header
    return header + NONCE + ChaCha20Poly1305(KEYS.state_key()).encrypt(NONCE, plaintext, place)


def _content(view: View, window: bytes) -> bytes:
    folded = view.encode()
    lengths = len(folded).to_bytes(4, "big") + len(window).to_bytes(4, "big")
    return lengths + folded + window + bytes(9)


def _one(index: int, said: Turn) -> bytes:
    return cbor2.dumps([index, to_fields(said)], canonical=True)


_FIELDS = cbor2.dumps(to_fields(turn(1)), canonical=True)
_LONG = turn(0, reply="r" * 100_000)  # of which five have room in a window


def test_what_was_sealed_opens_to_the_same_view() -> None:
    """Turns with their text, facts, summary and place come back."""
    view = _view()
    sealed = seal_state(KEYS, view, nonce=NONCE)
    opened = open_state(KEYS, sealed)
    assert (opened.turns, opened.position) == (view.turns, view.position)
    assert opened.encode() == view.encode()
    assert covered(sealed) == 5
    empty = View.empty(KEYS)
    assert open_state(KEYS, seal_state(KEYS, empty, nonce=NONCE)).encode() == empty.encode()
    with pytest.raises(CorruptError, match="of another thread"):
        open_state(OTHER, sealed)


def test_it_is_refused_cut_at_every_boundary() -> None:
    """No part of a state passes for one, nor one with something after it."""
    sealed = seal_state(KEYS, _view(), nonce=NONCE)
    for size in range(len(sealed)):
        with pytest.raises(CorruptError):
            open_state(KEYS, sealed[:size])
    with pytest.raises(CorruptError):
        open_state(KEYS, sealed + b"\x00")


def test_the_case_table_starts_from_a_state_that_opens() -> None:
    """The refusals below are for what each case changes."""
    view = _view()
    window = b"".join(_one(index, said) for index, said in view.turns)
    assert open_state(KEYS, _sealed(_content(view, window))).turns == view.turns


@pytest.mark.parametrize(
    ("sealed", "found"),
    [
        (_sealed(_content(_view(), b""), length=4), "of another place than it says"),
        (_sealed(_content(_view(), b""), head=b"i" * 32), "of another place than it says"),
        (_sealed(b""), "does not hold a view"),
        (_sealed(b"\x80"), "does not hold a view"),
        (_sealed(_content(_view(), b"") + b"\x01"), "does not hold a view"),
        (_sealed(_content(_view(), b"")[:-10]), "does not hold a view"),
        (_sealed(b"\xff" * 40), "does not hold a view"),
        (_sealed(_content(_view(), b"\x01")), "does not hold a view"),
        (_sealed(_content(_view(), _one(0, turn(0))[:-1])), "does not hold a view"),
        (_sealed(_content(_view(), b"\x82\x00\x80")), "does not hold a view"),
        (_sealed(_content(_view(), b"\x9f\x00" + _one(0, turn(0))[2:] + b"\xff")), "hold a view"),
        (_sealed(_content(_view(), _one(0, turn(0)).replace(b"\x00", b"\x18\x00", 1))), "a view"),
        (_sealed(_content(_view(), _one(0, turn(0)) + b"\x9f\x00" + _FIELDS + b"\xff")), "a view"),
        (_sealed(_content(_view(), b"".join(_one(at, _LONG) for at in range(6)))), "a view"),
    ],
)
def test_a_state_in_any_other_form_is_refused(sealed: bytes, found: str) -> None:
    """Even whoever holds the key can write a state in one way only."""
    with pytest.raises(CorruptError, match=found):
        open_state(KEYS, sealed)


def test_lengths_tell_little() -> None:
    """Of the length of what was said, an eighth at most can be read off."""
    lengths = {len(seal_state(KEYS, _view(reply="r" * n), nonce=NONCE)) for n in range(1, 400, 7)}
    assert len(lengths) < 9


def test_the_limits_hold_before_anything_is_sealed() -> None:
    """A short nonce seals nothing, and of long turns the newest are kept."""
    with pytest.raises(InvalidInputError, match="12 bytes"):
        seal_state(KEYS, _view(), nonce=NONCE[:-1])
    long = _view(turns=9, reply="é" * 100_000)
    sealed = seal_state(KEYS, long, nonce=NONCE)
    assert len(sealed) < MAX_STATE_BYTES
    assert [index for index, _ in open_state(KEYS, sealed).turns] == [7, 8]
