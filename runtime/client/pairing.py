"""Pairing: how a new device gets the keys of one that has the conversations.

A person carries a short code from one to the other. SPAKE2 makes a strong key of it: whoever holds
the mailbox between the two learns nothing, and who plays one of them has one guess per code.

    a0  SPAKE2 message of the device that hands over
    b0  SPAKE2 message of the new device, and its confirmation of the key
    a1  confirmation of the other, and what is handed over, sealed
    b1  that it was kept, and by whom, sealed
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, ValidationError
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError
from spake2.ed25519_basic import NotOnCurve

from runtime.client.carrier import StreamLostError
from runtime.client.exchange import JSON_HEADERS
from runtime.client.handing import Handed, Strict, adopt, check_fresh
from runtime.client.retrying import Retrying
from runtime.client.sealed import Call, SealedHttp, choose_any
from runtime.enclave.mailbox_api import MAILBOXES_PATH, NAME_DIGITS, MailboxPut, Message
from runtime.errors import Exit, SottoError

LIMIT_S: Final = 600.0
_SECRET_DIGITS: Final = 6
_CODE_DIGITS: Final = NAME_DIGITS + _SECRET_DIGITS + 1
_LABEL: Final = b"sottovoce pairing v1 "
_SPAKE2_BYTES: Final = 33
_MAC_BYTES: Final = 32
MAX_DEVICE_NAME: Final = 64
# Each key seals one message.
_NONCE: Final = bytes(12)
_TRIES: Final = 5
WAIT_S: Final = 1.0
_CLOSE_S: Final = 5.0

Progress = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Code:
    """What a person carries from one device to the other: twelve digits.

    Attributes:
        mailbox: Five digits, where the two meet; not secret.
        secret: Six digits.
    """

    mailbox: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> Code:
        """A random one."""
        digits = "".join(secrets.choice("0123456789") for _ in range(_CODE_DIGITS - 1))
        return cls(digits[:NAME_DIGITS], digits[NAME_DIGITS:])

    @classmethod
    def parse(cls, text: str) -> Code:
        """Read one as a person types it: spaces and dashes do not count.

        Raises:
            SottoError: It is none; nothing was tried with it.
        """
        digits = "".join(text[:64].split()).replace("-", "")
        if len(digits) != _CODE_DIGITS or not digits.isascii() or not digits.isdigit():
            raise SottoError(
                f"a code has {_CODE_DIGITS} digits; type it again",
                code="code",
                exit_code=Exit.USAGE,
            )
        if _check_digit(digits[:-1]) != digits[-1]:
            raise SottoError(
                "a digit of this code is mistyped; nothing was tried with it: type it again",
                code="code",
                exit_code=Exit.USAGE,
            )
        return cls(digits[:NAME_DIGITS], digits[NAME_DIGITS:-1])

    def __str__(self) -> str:
        digits = self.mailbox + self.secret
        digits += _check_digit(digits)
        return "-".join(digits[at : at + 4] for at in range(0, _CODE_DIGITS, 4))


def _check_digit(digits: str) -> str:
    """ISO 7064 MOD 11,10: every single wrong digit shows. It spares a person a burnt code."""
    product = 10
    for digit in digits:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return str((11 - product) % 10)


class _Kept(Strict):
    name: Annotated[str, Field(max_length=MAX_DEVICE_NAME)]


class _Spake(Protocol):
    """One side of SPAKE2."""

    def start(self) -> bytes: ...

    def finish(self, inbound_side_and_message: bytes) -> bytes: ...


def _spake(side: type[SPAKE2_A | SPAKE2_B], code: Code) -> _Spake:
    mailbox = code.mailbox.encode()
    made: _Spake = side(
        code.secret.encode(), idA=_LABEL + b"a " + mailbox, idB=_LABEL + b"b " + mailbox
    )
    return made


class _Keys:
    """What both have after SPAKE2, if the codes were the same.

    Args:
        spake: Started.
        mailbox: Its name.
        first, second: The messages of the device that hands over, and of the new one.
        theirs: The one of these that came.

    Raises:
        SottoError: It is no such message (code `pairing_damaged`).
    """

    def __init__(
        self, spake: _Spake, mailbox: str, first: bytes, second: bytes, theirs: bytes
    ) -> None:
        if len(theirs) != _SPAKE2_BYTES:
            raise _damaged()
        try:
            self._key = spake.finish(theirs)
        except (SPAKEError, NotOnCurve, ValueError, AssertionError):
            raise _damaged() from None
        self._transcript = hashlib.sha256(_LABEL + mailbox.encode() + first + second).digest()

    def _derive(self, purpose: str) -> bytes:
        info = _LABEL + purpose.encode()
        return HKDF(SHA256(), 32, salt=self._transcript, info=info).derive(self._key)

    def confirmation(self, side: str) -> bytes:
        """What proves that this side has the key, 32 bytes."""
        return hmac.digest(self._derive(f"confirmation {side}"), self._transcript, "sha256")

    def confirms(self, side: str, told: bytes) -> bool:
        """Whether the other side has it."""
        return hmac.compare_digest(self.confirmation(side), told)

    def seal(self, message: Message, data: bytes) -> bytes:
        """For the other side; once for each message."""
        return ChaCha20Poly1305(self._derive(message)).encrypt(_NONCE, data, self._transcript)

    def open(self, message: Message, sealed: bytes) -> bytes:
        """What the other side sealed. Raises SottoError (code `pairing_damaged`)."""
        try:
            return ChaCha20Poly1305(self._derive(message)).decrypt(_NONCE, sealed, self._transcript)
        except InvalidTag:
            raise _damaged() from None


def _damaged() -> SottoError:
    return SottoError(
        "what came is not from the other device, or it was altered on its way; nothing was changed "
        "here: begin again with a new code",
        code="pairing_damaged",
    )


class _Mailbox:
    """A mailbox, asked through any enclave that holds."""

    def __init__(self, http: SealedHttp, name: str, wait_s: float) -> None:
        self._http = http
        self._path = MAILBOXES_PATH + b"/" + name.encode()
        self._wait_s = wait_s

    async def put(self, message: Message, body: bytes) -> None:
        """Leave a message; raises SottoError with the code of docs/protocol.md."""
        told = MailboxPut(message=message, body=body).model_dump_json().encode()
        await self._ask(Call(b"POST", self._path, JSON_HEADERS, told))

    async def get(self, message: Message) -> bytes | None:
        """What the other left, if it did; raises as `put`."""
        told = await self._ask(Call(b"GET", self._path + b"?message=" + message.encode()))
        try:
            body = told["body"]
            return None if body is None else base64.b64decode(body, validate=True)
        except (KeyError, TypeError, ValueError):
            raise _damaged() from None

    async def wait(self, message: Message, progress: Progress = lambda: None) -> bytes:
        """The same, when it is there."""
        while (body := await self.get(message)) is None:
            progress()
            await asyncio.sleep(self._wait_s)
        return body

    async def close(self) -> None:
        """Empty it, and let the other know; as well as can be."""
        with contextlib.suppress(SottoError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._ask(Call(b"DELETE", self._path))

    async def _ask(self, call: Call) -> dict[str, Any]:
        retrying = Retrying()
        while True:
            try:
                return await (await self._http.request(call, choose_any)).read_json()
            except (StreamLostError, SottoError) as error:
                await retrying.after(error)
            self._http.forget()


@contextlib.asynccontextmanager
async def _told(limit_s: float, messages: dict[str, tuple[str, str]]) -> AsyncIterator[None]:
    """What a mailbox refuses, by its code, in this step's words; `timeout` where time is up."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        code, text = messages["timeout"]
        raise SottoError(text, code=code) from None
    except SottoError as error:
        if error.code not in messages:
            raise
        code, text = messages[error.code]
        raise SottoError(text, code=code) from None


_AGAIN = "give `sotto pair` again on the device with the conversations, for a new code"
_OVER = ("pairing_timeout", f"the time of this code is over, and nothing was handed over; {_AGAIN}")
_WAITING = {
    "timeout": _OVER,
    "mailbox_unknown": _OVER,
    "mailbox_closed": (
        "pairing_ended",
        f"the other device gave up, and nothing was handed over; {_AGAIN}",
    ),
}
_UNSURE = (
    "pairing_unconfirmed",
    "the code was right and the keys were sent, but the new device did not say that it kept them; "
    "look what it says, and pair again if it has no conversations",
)
_HANDING = dict.fromkeys(("timeout", "mailbox_unknown", "mailbox_closed"), _UNSURE)
_NOBODY = (
    "pairing_unknown",
    f"no device waits under this code: it was used, its time is over, or it is mistyped; {_AGAIN}",
)
_MEETING = {
    "timeout": _OVER,
    "mailbox_unknown": _NOBODY,
    "mailbox_closed": _NOBODY,
    "mailbox_used": (
        "pairing_used",
        "another device used this code already; if it was none of yours, stop `sotto pair` on the "
        "device that shows the code, and begin again",
    ),
}
_TAKING = {
    "timeout": _OVER,
    "mailbox_unknown": _OVER,
    "mailbox_closed": (
        "pairing_wrong_code",
        f"the code is wrong, or the other device gave up; a code can be tried once: {_AGAIN}",
    ),
}


async def hand_over(
    http: SealedHttp,
    folder: Path,
    show: Callable[[Code], None],
    *,
    progress: Progress = lambda: None,
    limit_s: float = LIMIT_S,
    wait_s: float = WAIT_S,
) -> tuple[str, int]:
    """Hand this device's keys to the one that gets the code.

    Args:
        http: Reaches enclaves.
        folder: This device's.
        show: Called with the code when the mailbox is there.
        progress: Called now and then while nobody has come.
        limit_s, wait_s: Seconds that this may take, and between two looks into the mailbox.

    Returns:
        The name of the other device, as it says, and how many conversations it has now.

    Raises:
        SottoError: The code was wrong, nobody came, what came was altered, or it is not known
            whether the other kept what it got; nothing was handed over but in the last case.
    """
    handed = Handed.of(folder)
    ends = time.monotonic() + limit_s
    mailbox, code, spake, first = await _make(http, wait_s)
    try:
        show(code)
        async with _told(ends - time.monotonic(), _WAITING):
            told = await mailbox.wait("b0", progress)
        second, proof = told[:_SPAKE2_BYTES], told[_SPAKE2_BYTES:]
        keys = _Keys(spake, code.mailbox, first, second, theirs=second)
        if not keys.confirms("b", proof):
            raise SottoError(
                "another device tried a wrong code; nothing was handed over, and this code is of "
                f"no more use: {_AGAIN}",
                code="pairing_wrong_code",
            )
        async with _told(ends - time.monotonic(), _HANDING):
            await mailbox.put("a1", keys.confirmation("a") + keys.seal("a1", handed.encode()))
            kept = keys.open("b1", await mailbox.wait("b1"))
        return _parsed(_Kept, kept).name, len(handed.threads)
    finally:
        await mailbox.close()


async def _make(http: SealedHttp, wait_s: float) -> tuple[_Mailbox, Code, _Spake, bytes]:
    for left in reversed(range(_TRIES)):
        code = Code.new()
        spake = _spake(SPAKE2_A, code)
        first = spake.start()
        mailbox = _Mailbox(http, code.mailbox, wait_s)
        try:
            await mailbox.put("a0", first)
        except SottoError as error:
            if error.code != "mailbox_used" or not left:
                raise
        else:
            return mailbox, code, spake, first
    raise AssertionError("the last try returns or raises")


async def take(
    http: SealedHttp,
    folder: Path,
    code: Code,
    name: str,
    *,
    limit_s: float = LIMIT_S,
    wait_s: float = WAIT_S,
) -> Handed:
    """Get another device's keys, and keep them in a fresh folder.

    Args:
        http: Reaches enclaves.
        folder: This device's, made by `DeviceHome`, and not open now.
        code: What the other device shows.
        name: What the other device shall call this one; at most 64 characters.
        limit_s, wait_s: As in `hand_over`.

    Returns:
        What was kept.

    Raises:
        SottoError: The code is wrong, what came was altered, or it cannot be kept; nothing was
            changed here.
    """
    check_fresh(folder)
    mailbox = _Mailbox(http, code.mailbox, wait_s)
    try:
        keys, handed = await _receive(mailbox, code, limit_s)
        adopt(folder, handed)
    except BaseException as error:
        # Who came second must not end the pairing of who came first.
        if not isinstance(error, SottoError) or error.code != "pairing_used":
            await mailbox.close()
        raise
    with contextlib.suppress(SottoError):  # it is kept, whatever the other device hears of it
        kept = _Kept(name=name[:MAX_DEVICE_NAME]).model_dump_json().encode()
        await mailbox.put("b1", keys.seal("b1", kept))
    return handed


async def _receive(mailbox: _Mailbox, code: Code, limit_s: float) -> tuple[_Keys, Handed]:
    ends = time.monotonic() + limit_s
    spake = _spake(SPAKE2_B, code)
    second = spake.start()
    async with _told(limit_s, _MEETING):
        first = await mailbox.wait("a0")
        keys = _Keys(spake, code.mailbox, first, second, theirs=first)
        await mailbox.put("b0", second + keys.confirmation("b"))
    async with _told(ends - time.monotonic(), _TAKING):
        told = await mailbox.wait("a1")
    if not keys.confirms("a", told[:_MAC_BYTES]):
        raise _damaged()
    return keys, _parsed(Handed, keys.open("a1", told[_MAC_BYTES:]))


_ParsedT = TypeVar("_ParsedT", bound=Strict)


def _parsed(kind: type[_ParsedT], data: bytes) -> _ParsedT:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        raise SottoError(
            "the other device speaks of things that this version does not know; update Sottovoce "
            "on both, and begin again with a new code",
            code="pairing_malformed",
        ) from None
