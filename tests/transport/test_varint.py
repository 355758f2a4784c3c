"""Variable-length integers against RFC 9000."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import varint
from transport.errors import UsageError


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
        ("00", 0),
    ],
)
def test_rfc_9000_samples(encoded: str, value: int) -> None:
    """The samples of RFC 9000 appendix A.1 encode and decode as printed."""
    data = bytes.fromhex(encoded)
    assert varint.encode(value) == data
    assert varint.decode(data) == (value, len(data))


def test_longer_encoding_is_read() -> None:
    """A value in more bytes than needed is read as the same value (RFC 9000 appendix A.1)."""
    assert varint.decode(bytes.fromhex("4025")) == (37, 2)


@settings(deadline=None)
@given(st.integers(0, varint.MAX_VALUE), st.binary(max_size=3), st.binary(max_size=3))
def test_round_trip_inside_other_bytes(value: int, before: bytes, after: bytes) -> None:
    """Any value is read back from the middle of a buffer, and no cut of it is."""
    encoded = varint.encode(value)
    end = len(before) + len(encoded)
    assert varint.decode(before + encoded + after, len(before)) == (value, end)
    for cut in range(len(encoded)):
        assert varint.decode(before + encoded[:cut], len(before)) is None


@pytest.mark.parametrize("value", [-1, 1 << 62])
def test_values_out_of_range_are_refused(value: int) -> None:
    """What does not fit in 62 bits has no encoding."""
    with pytest.raises(UsageError):
        varint.encode(value)
