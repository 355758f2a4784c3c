"""Published personas in Redis: steps, definitions and files by digest, and what changed.

```
sotto:persona:{<handle>}:steps          list    signed steps, canonical JSON
sotto:persona:{<handle>}:proofs         hash    number → the log's proofs of its claim and of it
sotto:persona:{<handle>}:blobs          hash    digest of a definition or file → its pieces' digests
sotto:persona:{<handle>}:piece:<hex>    string  up to 64 KiB, by SHA-256
sotto:persona-changes                   stream  handles, each time that one gained a step
```

All keys of a handle lie in one slot of a cluster. Whoever runs Redis can change any of it: readers
verify chain and digests, and believe nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from personas.authorship import MAX_PIECES, MAX_STEPS, PIECE_BYTES, SignedStep, decode_signed
from personas.errors import RegistryError

PIECE_TTL_S: Final = 3_600
"""How long a piece waits for the step that needs it."""
CHANGES: Final = "sotto:persona-changes"

_RESERVED: Final = frozenset({"files", "grants", "pieces", "search", "steps"})
_RESERVED_BEGINNINGS: Final = ("admin", "moderator", "official", "sotto", "support", "system")
_SCRIPT: Final = resources.files("personas").joinpath("registry.lua").read_text(encoding="utf-8")
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_PAGE: Final = 1_000


def is_reserved(handle: str, bundled: Iterable[str] = ()) -> bool:
    """Whether nobody may claim this handle: it would pass for the system's own, for a path, or to
    the eye for one of those that are bundled."""
    return (
        handle in _RESERVED
        or handle.startswith(_RESERVED_BEGINNINGS)
        or _looks(handle) in map(_looks, bundled)
    )


def _looks(handle: str) -> str:
    """What remains of a handle at a glance."""
    plain = handle.replace("-", "").translate(str.maketrans("0i1", "oll"))
    return plain.replace("rn", "m").replace("vv", "w")


@dataclass(frozen=True, slots=True)
class Proofs:
    """Where a step stands in the log, each as text of a c2sp.org/tlog-proof.

    Attributes:
        claim: Of its claim.
        step: Of the step, directly after it.
    """

    claim: str
    step: str


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as it is stored: nothing of it is verified but its encoding.

    Attributes:
        signed: The step.
        proofs: The log's; None where they are not here yet.
    """

    signed: SignedStep
    proofs: Proofs | None


class Registry:
    """Reads and appends; holds no state of its own.

    `redis` must return bytes. Every method raises RegistryError with the code `away` where Redis
    is, and with `damaged` where what it holds was not written by this program.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put_piece(self, handle: str, data: bytes) -> bytes:
        """Keep a piece for an hour, in which a step must need it; returns its SHA-256."""
        if not 0 < len(data) <= PIECE_BYTES:
            raise RegistryError(f"a piece has 1 to {PIECE_BYTES} bytes; cut it", code="piece_size")
        digest = hashlib.sha256(data).digest()
        # A piece that a step needs already is not given an end again.
        await _answer(self._redis.set(_piece(handle, digest), data, ex=PIECE_TTL_S, nx=True))
        return digest

    async def piece(self, handle: str, digest: bytes) -> bytes | None:
        """A piece by its SHA-256; None where there is none."""
        data = await _answer(self._redis.get(_piece(handle, digest)))
        if data is None:
            return None
        if not hmac.compare_digest(hashlib.sha256(data).digest(), digest):
            raise _damaged(handle, "a piece has another digest than its name")
        return bytes(data)

    async def append(self, signed: SignedStep, blobs: Mapping[bytes, Sequence[bytes]]) -> bool:
        """Append a step, which was verified with all before it; whether it is new.

        The same step again changes nothing, but pieces that it needs do not end.

        Args:
            signed: The step.
            blobs: By address, the pieces of what it publishes.

        Raises:
            RegistryError: Another step stands there (`taken`), one before it is missing (`behind`),
                or a piece is (`pieces_missing`).
        """
        step = signed.step
        pieces = list(dict.fromkeys(one for part in blobs.values() for one in part))
        keys = [_steps(step.handle), _blobs(step.handle), *(_piece(step.handle, p) for p in pieces)]
        manifests = [part for address, p in blobs.items() for part in (address, b"".join(p))]
        verdict, number = await self._run(keys, [step.number, signed.encode(), *manifests])
        match verdict:
            case b"taken" | b"behind":
                raise RegistryError(
                    f"step {step.number} of `{step.handle}` cannot follow: {number} are there. "
                    "Somebody with the same key was faster; try again",
                    code=verdict.decode(),
                )
            case b"missing":
                raise RegistryError(
                    f"piece {number} of what the step publishes is not here: send it first",
                    code="pieces_missing",
                )
        await _answer(self._redis.xadd(CHANGES, {"handle": step.handle}))
        return bool(verdict == b"appended")

    async def steps(
        self, handle: str, start: int = 0, count: int = MAX_STEPS
    ) -> tuple[SignedStep, ...]:
        """Steps from `start` on, at most `count`."""
        found = await _answer(self._redis.lrange(_steps(handle), start, start + count - 1))
        return tuple(decode_signed(one) for one in found)

    async def length(self, handle: str) -> int:
        """How many steps there are."""
        return int(await _answer(self._redis.llen(_steps(handle))))

    async def stored(self, handle: str, start: int, count: int) -> tuple[StoredStep, ...]:
        """The same as `steps`, with their proofs."""
        signed = await self.steps(handle, start, count)
        if not signed:
            return ()
        numbers = [str(start + at) for at in range(len(signed))]
        proofs = await _answer(self._redis.hmget(_proofs(handle), numbers))
        return tuple(
            StoredStep(one, _read_proofs(handle, text))
            for one, text in zip(signed, proofs, strict=True)
        )

    async def keep_proofs(self, handle: str, number: int, proofs: Proofs) -> None:
        """Keep what the log says of a step: the log's own copy ends after a while."""
        text = f"{proofs.claim}\x00{proofs.step}"
        await _answer(self._redis.hset(_proofs(handle), str(number), text))

    async def pieces(self, handle: str, address: bytes) -> tuple[bytes, ...]:
        """Digests of the pieces of a definition or file; none where it is not here."""
        manifest = await _answer(self._redis.hget(_blobs(handle), address))
        if manifest is None:
            return ()
        if len(manifest) % 32 or not 0 < len(manifest) <= 32 * MAX_PIECES:
            raise _damaged(handle, "a list of pieces is not one")
        return tuple(bytes(manifest[at : at + 32]) for at in range(0, len(manifest), 32))

    async def blob(self, handle: str, pieces: Sequence[bytes], limit: int) -> bytes:
        """What pieces make together; RegistryError (`pieces_missing`, `too_large`) where not."""
        if len(pieces) > limit // PIECE_BYTES + 1:
            raise RegistryError(f"it has more than {limit} bytes; shorten it", code="too_large")
        whole = bytearray()
        for number, digest in enumerate(pieces):
            data = await self.piece(handle, digest)
            if data is None:
                raise RegistryError(
                    f"piece {number} of {len(pieces)} is not here: send it again",
                    code="pieces_missing",
                )
            whole += data
        if len(whole) > limit:
            raise RegistryError(f"it has more than {limit} bytes; shorten it", code="too_large")
        return bytes(whole)

    async def changes(self, after: str) -> tuple[str, tuple[str, ...]]:
        """Handles that gained a step after a place in the stream (at first `0-0`), at most 1,000;
        and the place to go on from."""
        found = await _answer(self._redis.xrange(CHANGES, min=f"({after}", count=_PAGE))
        handles = dict.fromkeys(fields.get(b"handle", b"").decode() for _, fields in found)
        return (found[-1][0].decode() if found else after), tuple(one for one in handles if one)

    async def _run(self, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[bytes, int]:
        try:
            answer = await _answer(self._redis.evalsha(_SHA, len(keys), *keys, *arguments))
        except NoScriptError:
            answer = await _answer(self._redis.eval(_SCRIPT, len(keys), *keys, *arguments))
        verdict, number = answer
        return bytes(verdict), int(number)


async def _answer(call: Any) -> Any:
    try:
        return await call
    except NoScriptError:
        raise
    except (RedisError, RedisClusterException, OSError):
        raise RegistryError(
            "the store of published personas is away; try again in a moment", code="away"
        ) from None


def _read_proofs(handle: str, text: bytes | None) -> Proofs | None:
    if text is None:
        return None
    try:
        claim, mark, step = text.decode().partition("\x00")
    except UnicodeDecodeError:
        mark = ""
    if not mark:
        raise _damaged(handle, "a step's proofs are not text")
    return Proofs(claim, step)


def _damaged(handle: str, what: str) -> RegistryError:
    return RegistryError(f"what the store has of `{handle}` is damaged: {what}", code="damaged")


def _steps(handle: str) -> str:
    return f"sotto:persona:{{{handle}}}:steps"


def _proofs(handle: str) -> str:
    return f"sotto:persona:{{{handle}}}:proofs"


def _blobs(handle: str) -> str:
    return f"sotto:persona:{{{handle}}}:blobs"


def _piece(handle: str, digest: bytes) -> str:
    return f"sotto:persona:{{{handle}}}:piece:{digest.hex()}"
