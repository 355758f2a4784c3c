"""Key derivation: separate by purpose, silent in logs."""

import pytest

from memory.errors import InvalidInputError
from memory.keys import ThreadKeys, derive_thread_key

MASTER = bytes(range(32))


def test_a_thread_key_depends_on_the_person_the_persona_and_the_number() -> None:
    """Another user, persona or conversation gives another key; the same ones the same key."""
    base = derive_thread_key(MASTER, "fern")
    others = {
        derive_thread_key(bytes(32), "fern"),
        derive_thread_key(MASTER, "moss"),
        derive_thread_key(MASTER, "fern", 1),
        # The length before the handle keeps these apart from ("fern", n).
        derive_thread_key(MASTER, "fern\x00"),
        derive_thread_key(MASTER, "fern\x00\x00\x00\x00", 0),
    }
    assert base == derive_thread_key(MASTER, "fern", 0)
    assert len(others | {base}) == 6


def test_the_derivation_never_changes() -> None:
    """A browser and a terminal of any release must find the same memory."""
    key = derive_thread_key(MASTER, "fern", 7)
    keys = ThreadKeys(key)
    assert key.hex() == "e20942cf6f0e943ad7c8aca208ab429baa60b3081379b3092336bf85cc7ca48c"
    assert keys.thread_id == "ba1890c1e91dbfc50ee7ec29aa83766bad7d5d0c83de6cf0898922f4decf9d8e"
    assert (
        keys.receipt_key(bytes(16)).hex()
        == "1475588c507549cd9f686282e79eaa5b591473051880a5e5aa6ea8676326f010"
    )


def test_every_purpose_has_a_key_of_its_own() -> None:
    """Knowing one derived value, such as the id that Redis sees, gives none of the others."""
    keys = ThreadKeys(derive_thread_key(MASTER, "fern"))
    values = [
        keys.thread_id,
        keys.cache_salt,
        keys.record_key(0).hex(),
        keys.record_key(1).hex(),
        keys.receipt_key(bytes(16)).hex(),
        keys.receipt_key(bytes(15) + b"\x01").hex(),
        keys.turn_tag(bytes(16)).hex(),
        keys.turn_tag(bytes(15) + b"\x01").hex(),
        keys.erasure_id(bytes(16)).hex(),
        keys.erasure_id(bytes(15) + b"\x01").hex(),
        keys.erasure_salt(bytes(16)).hex(),
        keys.state_key().hex(),
        keys.erasure_tag(bytes(16)).hex(),
        keys.erasure_tag(bytes(15) + b"\x01").hex(),
        keys.erasure_tag(bytes(16), rotation=True).hex(),
    ]
    assert len(set(values)) == len(values)
    lengths = [64, 64, 64, 64, 64, 64, 32, 32, 32, 32, 64, 64, 32, 32, 32]
    assert [len(value) for value in values] == lengths


def test_turn_tags_of_two_threads_do_not_match() -> None:
    """Redis cannot see that one turn id was used in two threads."""
    one, two = (ThreadKeys(derive_thread_key(MASTER, "fern", n)) for n in (0, 1))
    assert one.turn_tag(bytes(16)) != two.turn_tag(bytes(16))


def test_equal_keys_are_equal_and_others_are_not() -> None:
    """Two objects made from one thread key are interchangeable."""
    key = derive_thread_key(MASTER, "fern")
    assert ThreadKeys(key) == ThreadKeys(key)
    assert len({ThreadKeys(key), ThreadKeys(key)}) == 1
    assert ThreadKeys(key) != ThreadKeys(MASTER)
    assert ThreadKeys(key) != key


def test_nothing_secret_shows_in_text() -> None:
    """A log line or a traceback that prints the keys gives nothing away."""
    keys = ThreadKeys(MASTER)
    for text in (repr(keys), str(keys), f"{keys!r:>40}", repr([keys])):
        assert "ThreadKeys(hidden)" in text
        assert keys.thread_id not in text
        assert keys.cache_salt not in text


@pytest.mark.parametrize(
    ("master", "persona", "thread"),
    [
        (bytes(31), "fern", 0),
        (bytes(33), "fern", 0),
        (MASTER, "", 0),
        (MASTER, "f" * 257, 0),
        (MASTER, "\ud800", 0),
        (MASTER, "fern", -1),
        (MASTER, "fern", 2**32),
    ],
)
def test_inputs_outside_the_limits_are_refused(master: bytes, persona: str, thread: int) -> None:
    """A wrong size is refused, and the message never repeats the secret."""
    with pytest.raises(InvalidInputError) as caught:
        derive_thread_key(master, persona, thread)
    assert master.hex() not in str(caught.value)
    assert repr(master) not in str(caught.value)


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_ids_of_another_size_are_refused(size: int) -> None:
    """A truncated id would collide with others, so it has no tag and no key."""
    keys = ThreadKeys(MASTER)
    with pytest.raises(InvalidInputError):
        keys.turn_tag(bytes(size))
    with pytest.raises(InvalidInputError):
        keys.receipt_key(bytes(size))
    with pytest.raises(InvalidInputError):
        keys.erasure_tag(bytes(size))


def test_a_thread_key_of_another_size_is_refused() -> None:
    """A key that was cut on its way cannot quietly open another thread."""
    with pytest.raises(InvalidInputError):
        ThreadKeys(bytes(16))
