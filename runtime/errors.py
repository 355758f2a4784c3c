"""Errors that a person meets, and the exit codes they stand for."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every `sotto` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


class SottoError(Exception):
    """Something a person can act on: what happened, why, what to do. Shown without a traceback.

    Attributes:
        exit_code: What the command returns.
        code: Stable machine word for `--json`.
    """

    def __init__(self, message: str, *, code: str = "failed", exit_code: int = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = int(exit_code)


class SetupError(SottoError):
    """The machine or the configuration is not ready; exit 2."""

    def __init__(self, message: str, *, code: str = "setup") -> None:
        super().__init__(message, code=code, exit_code=Exit.USAGE)
