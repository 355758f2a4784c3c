"""What a creator sends with a step, and the copy of it that their device keeps.

```
published/<handle>/<number>.json  the signed step, the digests of the pieces that it needs, and
                                  whether an enclave said that it took it
published/pieces/<sha256>         up to 64 KiB of a definition or file, sealed where it is private
```

A store that was restored from an older backup can so be given again what it lost. The copy is
written before anything is sent: the answer may get lost.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from personas.authorship import PIECE_BYTES, SignedStep, parse_signed
from personas.errors import PersonaError
from proofs.log.files import write_whole
from runtime.errors import SottoError

_FOLDER: Final = "published"
_MAX_RECORD: Final = 1024 * 1024
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,3})\.json")
_HEX32: Final = re.compile(r"[0-9a-f]{64}")

Pieces = tuple[str, ...]
"""Digests in hex."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A signed step and what it publishes.

    Attributes:
        signed: The step.
        pieces: Of the definition, or of the sealed one.
        files: Pieces of each file, by its SHA-256 or, sealed, by its address; in hex.
        content: Pieces by their SHA-256 in hex.
        taken: Whether an enclave said that it took the step.
    """

    signed: SignedStep
    pieces: Pieces = ()
    files: Mapping[str, Pieces] = field(default_factory=dict)
    content: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    taken: bool = False

    @classmethod
    def of(
        cls,
        signed: SignedStep,
        definition: bytes = b"",
        files: Mapping[bytes, bytes | Sequence[bytes]] | None = None,
    ) -> Submission:
        """Cut into pieces what a step publishes; a sealed file is cut already."""
        content: dict[str, bytes] = {}

        def cut(data: bytes | Sequence[bytes]) -> Pieces:
            if isinstance(data, bytes):
                data = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
            named = [(hashlib.sha256(piece).hexdigest(), piece) for piece in data]
            content.update(named)
            return tuple(digest for digest, _ in named)

        pieces = cut(definition)
        parts = {address.hex(): cut(data) for address, data in (files or {}).items()}
        return cls(signed, pieces, parts, content)

    def told(self) -> dict[str, Any]:
        """As ``POST /v1/personas/steps`` takes it."""
        return {"signed": self.signed.told(), "pieces": self.pieces, "files": self.files}

    @property
    def needed(self) -> Pieces:
        """Every piece once, those of the definition first."""
        parts = (one for pieces in self.files.values() for one in pieces)
        return tuple(dict.fromkeys((*self.pieces, *parts)))


class Submissions:
    """The copies in one device's folder.

    Args:
        folder: The device's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER

    def keep(self, submission: Submission) -> None:
        """Keep a copy; of one place the last that was sent. Raises SottoError."""
        step = submission.signed.step
        record = self._folder / step.handle / f"{step.number}.json"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._folder / "pieces", record.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            for digest, data in submission.content.items():
                path = self._piece(digest)
                if not path.exists():
                    write_whole(path, data, 0o600)
            told = submission.told() | {"taken": submission.taken}
            write_whole(record, orjson.dumps(told), 0o600)
        except OSError as error:
            raise _unusable(self._folder, error) from None

    def of(self, handle: str) -> dict[int, Submission]:
        """What is kept of a handle, by the number of the step, without the pieces' content.

        Raises:
            SottoError: A copy cannot be read.
        """
        found = {}
        for path in sorted((self._folder / handle).glob("*.json")):
            if _NUMBER.fullmatch(path.name):
                submission = _read(path)
                step = submission.signed.step
                if (step.handle, f"{step.number}.json") != (handle, path.name):
                    raise _broken(path)
                found[step.number] = submission
        return found

    def filled(self, submission: Submission) -> Submission:
        """The same with its pieces' content.

        Raises:
            SottoError: A piece is not here any more, or is another.
        """
        content = {}
        for digest in submission.needed:
            path = self._piece(digest)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise _unusable(path, error) from None
            if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), digest):
                raise _broken(path)
            content[digest] = data
        return replace(submission, content=content)

    def _piece(self, digest: str) -> Path:
        return self._folder / "pieces" / digest


def _read(path: Path) -> Submission:
    try:
        with path.open("rb") as file:
            value = orjson.loads(file.read(_MAX_RECORD))
        match value:
            case {
                "signed": dict(signed),
                "pieces": list(pieces),
                "files": dict(files),
                "taken": bool(taken),
            }:
                parts = {_hex(name): tuple(map(_hex, one)) for name, one in files.items()}
                named = tuple(map(_hex, pieces))
                return Submission(parse_signed(signed), named, parts, taken=taken)
    except OSError as error:
        raise _unusable(path, error) from None
    except (ValueError, TypeError, PersonaError):
        pass
    raise _broken(path)


def _hex(text: object) -> str:
    if not isinstance(text, str) or not _HEX32.fullmatch(text):
        raise ValueError("not a digest")
    return text


def _broken(path: Path) -> SottoError:
    return SottoError(
        f"{path} is not what was published: restore it from a backup of this device's folder",
        code="published_copy",
    )


def _unusable(path: Path, error: OSError) -> SottoError:
    return SottoError(
        f"{path} cannot be used ({error.strerror}); look at its permissions, or restore it from a "
        "backup of this device's folder",
        code="published_copy",
    )
