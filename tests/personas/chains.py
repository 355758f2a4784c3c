"""Creators, personas and chains for tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from personas.authorship import (
    HandleState,
    SignedStep,
    StepKind,
    next_step,
    public_key,
    sign_step,
    verify_chain,
)
from personas.library import load_library
from personas.listing import Listing
from personas.model import Persona

NOW = 1_800_000_000


def key_of(number: int) -> Ed25519PrivateKey:
    """A creator's key, the same each time."""
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def persona_of(handle: str = "night-owl", version: str = "1.0.0", **changes: object) -> Persona:
    """A persona that nobody has published."""
    wren = load_library().get("wren")
    told = {**wren.model_dump(), "handle": handle, "version": version, **changes}
    return Persona.model_validate(told)


@dataclass
class Author:
    """One key that takes steps on one handle, and the chain so far."""

    key: Ed25519PrivateKey = field(default_factory=lambda: key_of(1))
    steps: tuple[SignedStep, ...] = ()
    now: int = NOW

    @property
    def state(self) -> HandleState | None:
        """What the chain proves."""
        return verify_chain(self.steps) if self.steps else None

    def publish(self, persona: Persona, *, private: bool = False) -> SignedStep:
        """Publish a version."""
        listing = Listing.of(persona, key=public_key(self.key), private=private, created=self.now)
        return self._take(StepKind.PUBLISH, persona.handle, listing=listing)

    def hand_over(self, to: Ed25519PrivateKey) -> SignedStep:
        """Hand over, signed by both."""
        handle = self.steps[0].step.handle
        offer = self._signed(StepKind.HAND_OVER, handle, new_key=public_key(to))
        self.steps = (*self.steps, offer.accepted(to))
        self.key = to
        return self.steps[-1]

    def withdraw(self) -> SignedStep:
        """Withdraw."""
        return self._take(StepKind.WITHDRAW, self.steps[0].step.handle)

    def _take(self, kind: StepKind, handle: str, **more: object) -> SignedStep:
        signed = self._signed(kind, handle, **more)
        self.steps = (*self.steps, signed)
        return signed

    def _signed(self, kind: StepKind, handle: str, **more: object) -> SignedStep:
        step = next_step(
            self.state, kind, handle=handle, key=public_key(self.key), time=self.now, **more
        )
        return sign_step(step, self.key)


def again(signed: SignedStep, key: Ed25519PrivateKey, **changes: object) -> SignedStep:
    """A step with changes, signed by a key, whoever owns the handle."""
    step = replace(signed.step, key=public_key(key), **changes)
    if step.listing is not None:
        step = replace(step, listing=replace(step.listing, key=step.key, created=step.time))
    return sign_step(step, key)
