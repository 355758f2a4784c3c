"""Gives a store again what it lost of a handle's chain: steps that this device sent."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from personas.authorship import SignedStep, verify_chain
from personas.errors import PersonaError
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.publishing import Published, publish
from runtime.client.registry import stored_steps
from runtime.client.submission import Submissions
from runtime.errors import SottoError


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it.

    Attributes:
        steps: Those that were sent again, in order.
        length: How many steps the store has now.
        missing: Steps that this device saw behind them and does not have.
    """

    steps: tuple[Published, ...]
    length: int
    missing: int


async def restore(
    device: Device, home: DeviceHome, sent: Submissions, key: Ed25519PrivateKey, handle: str
) -> Restored:
    """Send again every step that was published and follows what the store has of a handle.

    Args:
        device: To whose enclaves.
        home: Knows the newest step that this device saw.
        sent: What this device sent.
        key: The creator's.
        handle: Whose chain.

    Raises:
        SottoError: `persona_forked`: the store has another step in a place that this device knows.
            `persona_chain`: what is here does not follow what is there. `nothing_to_restore`: the
            steps that the store lost are not here. Else as `publish`. What was sent before that
            stays.
    """
    there = await stored_steps(device, handle)
    pin = home.pins.of(handle)
    seen = -1 if pin is None else pin.number
    # What no enclave said it took may never have been published, and another may stand there.
    kept = {at: one for at, one in sent.of(handle).items() if one.taken or at <= seen}
    steps = list(there)
    while (one := kept.get(len(steps))) is not None:
        steps.append(one.signed)
    known = {number: one.signed.step.digest for number, one in kept.items() if one.taken}
    if pin is not None:
        known[pin.number] = pin.step
    _check(steps, known, handle)
    missing = max(0, seen + 1 - len(steps))
    if len(steps) == len(there) and missing:
        raise SottoError(
            f"the store has {len(there)} steps of `{handle}` and had {len(there) + missing}; step "
            f"{len(there)} is not on this device: restore from the device that published it, or "
            "from a backup of its folder",
            code="nothing_to_restore",
        )
    if not steps:
        raise SottoError(
            f"nobody has published `{handle}` here, and this device has published nothing under it",
            code="persona_unknown",
        )
    done = [
        await publish(device, sent.filled(kept[number]), key, again=True)
        for number in range(len(there), len(steps))
    ]
    return Restored(tuple(done), len(steps), missing)


def _check(steps: list[SignedStep], known: dict[int, bytes], handle: str) -> None:
    for number, signed in enumerate(steps):
        if known.get(number, signed.step.digest) != signed.step.digest:
            raise SottoError(
                f"step {number} of `{handle}` in the store is another than the one that this "
                "device knows: nothing was sent, since what is here cannot follow it. Look at "
                f"`sotto personas history {handle}`",
                code="persona_forked",
            )
    try:
        if steps:
            verify_chain(steps, handle=handle)
    except PersonaError as error:
        raise SottoError(
            f"what is on this device does not follow what the store has: {error}. Nothing was sent",
            code="persona_chain",
        ) from None
