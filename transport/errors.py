"""What can go wrong in transport, as one tree of exceptions.

Messages say what happened, why, and what to do. They hold sizes and identifiers, never content,
keys or addresses, because they end in logs.
"""

from __future__ import annotations


class TransportError(Exception):
    """Root of every exception that leaves this package."""


class MessageError(TransportError):
    """Bytes do not follow their format: refuse the message, a retry cannot help."""


class TruncatedError(MessageError):
    """A message ended before its format allows it; what was read must not be trusted as whole."""


class LimitError(TransportError):
    """A size or count exceeds what the receiver accepts; raised before memory is taken."""


class DecryptionError(TransportError):
    """A sealed message does not open: wrong key, altered, reordered, or cut."""


class UnknownKeyError(TransportError):
    """A key identifier, KEM or suite that this end lacks: fetch the key configuration anew."""


class ReplayError(TransportError):
    """This encapsulated key was seen before: seal the request anew."""


class ClockSkewError(TransportError):
    """The request's date lies outside the window: correct the clock and seal anew."""


class UsageError(TransportError):
    """A call that the object's state forbids, such as sealing after the final chunk."""


class LinkClosedError(TransportError):
    """The connection under a stream is gone: open a new one."""


class MuxUnsupportedError(LinkClosedError):
    """The peer is there but does not offer the multiplexed protocol: use plain HTTP."""


class UpstreamError(TransportError):
    """The gateway does not answer: try later or choose another gateway."""


class StreamResetError(TransportError):
    """One stream was abandoned by either end; the connection lives on.

    Attributes:
        code: A `transport.mux.ResetCode` value.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code
