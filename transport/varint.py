"""QUIC variable-length integers (RFC 9000 section 16): 1, 2, 4 or 8 bytes, big-endian.

Both formats that use them here, Binary HTTP and chunked OHTTP, allow longer encodings than
needed (chunked OHTTP draft, section "Encapsulation of Chunks"), so decoding accepts them;
encoding is always the shortest.
"""

from __future__ import annotations

from transport.errors import UsageError

MAX_VALUE = (1 << 62) - 1
_SIZES = tuple((size, (1 << 8 * size - 2) - 1) for size in (1, 2, 4, 8))


def encode(value: int) -> bytes:
    """Encode `value` (0 to 2**62 - 1) in the fewest bytes.

    Raises:
        UsageError: The value does not fit in 62 bits.
    """
    if 0 <= value < 0x40:
        return bytes((value,))
    if 0 <= value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if 0 <= value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    if 0 <= value <= MAX_VALUE:
        return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
    raise UsageError(f"{value} does not fit a variable-length integer; use 0 to 2**62 - 1")


def decode(data: bytes | bytearray, offset: int = 0) -> tuple[int, int] | None:
    """Decode one integer at `offset`: its value and the offset after it, or None if cut short."""
    if offset >= len(data):
        return None
    first = data[offset]
    if first < 0x40:
        return first, offset + 1
    size, mask = _SIZES[first >> 6]
    end = offset + size
    if end > len(data):
        return None
    if size == 2:  # nearly all lengths: chunks, header fields
        return (first & 0x3F) << 8 | data[offset + 1], end
    return int.from_bytes(data[offset:end], "big") & mask, end
