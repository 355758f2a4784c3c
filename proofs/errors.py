"""Every error that leaves this package: what happened, what it means, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proofs.verdict import Verdict


class ProofError(Exception):
    """Root of this package's errors. No text of a conversation is ever part of one."""


class UnreadableError(ProofError):
    """Bytes, text or values that are not the format they should be.

    Nothing was judged: damage and forgery look alike here. Get the file again from where it
    came from. A command that meets this exits with status 2.
    """


class RefusedError(ProofError):
    """Readable, but it does not hold. Do not use what was being verified.

    Attributes:
        verdicts: What was found, in the fixed order of `proofs.verdict`.
    """

    def __init__(self, message: str, verdicts: Iterable[Verdict] = ()) -> None:
        super().__init__(message)
        self.verdicts = tuple(verdicts)


class PolicyError(ProofError):
    """A policy file that cannot be used; the text names file, key and remedy."""


class LogError(ProofError):
    """A log's or a witness's folder cannot be used safely, or the log forked; it stops."""
