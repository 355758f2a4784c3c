"""Chains of signed steps, and sealed definitions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from personas.authorship import (
    MAX_STEP_BYTES,
    SignedStep,
    StepKind,
    claim_entry,
    decode_signed,
    fingerprint,
    has_fingerprint,
    public_key,
    verify_chain,
)
from personas.digest import canonical, persona_digest
from personas.errors import AuthorshipError, SealedError
from personas.listing import MAX_DESCRIPTION, Listing, check_definition
from personas.sealing import STEP_BYTES, open_definition, seal_definition
from tests.personas.chains import NOW, Author, again, key_of, persona_of

OTHER = key_of(2)


def _whole() -> Author:
    """Published twice, handed over, withdrawn, revived by the new owner."""
    author = Author()
    author.publish(persona_of(version="1.0.0"))
    author.publish(persona_of(version="1.2.0"), private=True)
    author.hand_over(OTHER)
    author.withdraw()
    author.publish(persona_of(version="2.0.0"))
    return author


def test_what_a_whole_chain_proves() -> None:
    """Owner, newest version and withdrawal follow from the steps alone."""
    author = _whole()
    state = verify_chain(author.steps, handle="night-owl")
    assert (state.key, state.number, state.withdrawn) == (public_key(OTHER), 4, False)
    assert state.digest == author.steps[-1].step.digest
    assert [one.version for one in state.published] == ["1.0.0", "1.2.0", "2.0.0"]
    assert [one.private for one in state.published] == [False, True, False]
    assert state.newest.digest == persona_digest(persona_of(version="2.0.0"))
    assert verify_chain(author.steps[:4]).withdrawn
    assert state.find(persona_digest(persona_of(version="1.0.0"))) == state.published[0]


def test_a_hand_over_does_not_revive() -> None:
    """Withdrawn stays withdrawn under a new owner until something is published."""
    author = Author()
    author.publish(persona_of())
    author.withdraw()
    author.hand_over(OTHER)
    assert verify_chain(author.steps).withdrawn


def test_a_signature_is_over_the_label_and_canonical_json() -> None:
    """Anybody can check a step with an Ed25519 library and RFC 8785 alone."""
    author = Author()
    signed = author.publish(persona_of())
    message = b"sottovoce persona step v1\x00" + rfc8785.dumps(json.loads(signed.encode())["step"])
    Ed25519PublicKey.from_public_bytes(signed.step.key).verify(signed.signature, message)


@pytest.mark.parametrize("number", range(5))
def test_encoding_is_one(number: int) -> None:
    """What is read re-encodes to itself, and nothing else is read."""
    data = _whole().steps[number].encode()
    assert decode_signed(data).encode() == data
    for other in (
        data + b" ",
        b" " + data,
        data.replace(b":", b": ", 1),
        data[:-1],
        b"\xff" + data,
    ):
        with pytest.raises(AuthorshipError):
            decode_signed(other)


def _changed(**changes: object) -> object:
    told = json.loads(Author().publish(persona_of()).encode())
    for name, value in changes.items():
        if value is None:
            del told["step"][name]
        else:
            told["step"][name] = value
    return told


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format": 2}, "format"),
        ({"format": True}, "format"),
        ({"handle": "Night"}, "handle"),
        ({"number": -1}, "number"),
        ({"number": True}, "number"),
        ({"number": 512}, "number"),
        ({"previous": "00"}, "previous"),
        ({"previous": "A" * 64}, "previous"),
        ({"kind": "rename"}, "kind"),
        ({"key": "zz"}, "key"),
        ({"version": "1.0"}, "version"),
        ({"visibility": "secret"}, "visibility"),
        ({"time": 1.5}, "time"),
        ({"time": None}, "members"),
        ({"new_key": "00" * 32}, "members"),
        ({"listing": {}}, "listing"),
        ({"listing": []}, "listing"),
    ],
)
def test_a_member_that_is_wrong_is_named(changes: dict[str, object], word: str) -> None:
    """A step is read strictly, and its refusal names the member."""
    with pytest.raises(AuthorshipError, match=word):
        decode_signed(rfc8785.dumps(_changed(**changes)))


def test_a_step_that_is_too_long_is_not_parsed() -> None:
    """The limit stands before the parser."""
    with pytest.raises(AuthorshipError, match="at most"):
        decode_signed(b"[" * (MAX_STEP_BYTES + 1))


Chain = tuple[SignedStep, ...]


def _swapped_listing(steps: Chain) -> Chain:
    listing = steps[1].step.listing
    assert listing is not None
    step = replace(steps[1].step, listing=replace(listing, tagline="I am somebody else."))
    return (steps[0], replace(steps[1], step=step), *steps[2:])


def _other_claims(steps: Chain) -> Chain:
    return (again(steps[0], OTHER), *steps[1:])


def _stranger(steps: Chain) -> Chain:
    return (steps[0], again(steps[1], OTHER))


def _one_sided(steps: Chain) -> Chain:
    return (*steps[:2], replace(steps[2], new_signature=b""))


def _old_signs_for_new(steps: Chain) -> Chain:
    return (*steps[:2], replace(steps[2], new_signature=steps[2].signature))


def _self_hand_over(steps: Chain) -> Chain:
    return (*steps[:2], again(steps[2], key_of(1), new_key=public_key(key_of(1))))


def _second_signature(steps: Chain) -> Chain:
    return (replace(steps[0], new_signature=bytes(64)),)


def _another_handle(steps: Chain) -> Chain:
    author = Author()
    return (steps[0], author.publish(persona_of(handle="day-owl")))


def _backdated(steps: Chain) -> Chain:
    return (steps[0], again(steps[1], key_of(1), time=NOW - 1))


def _begun_by_withdrawal(steps: Chain) -> Chain:
    return (again(steps[3], OTHER, number=0, previous=bytes(32)),)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_swapped_listing, "step 1 of `night-owl`: its signature is not"),
        (_other_claims, "step 1 of `night-owl`: it does not name the step before it"),
        (_stranger, "step 1 of `night-owl`: it is of the key .* handed it over to nobody"),
        (_one_sided, "step 2 of `night-owl`: the new key did not sign"),
        (_old_signs_for_new, "step 2 of `night-owl`: the new key did not sign"),
        (_self_hand_over, "step 2 of `night-owl`: .* the key that has it"),
        (_second_signature, "step 0 of `night-owl`: .* second signature"),
        (_another_handle, "it is a step of `day-owl`"),
        (_backdated, "step 1 of `night-owl`: it is dated before"),
        (_begun_by_withdrawal, "step 0 of `night-owl`: a handle is claimed by publishing"),
        (lambda steps: steps[1:], "step 0 should stand here"),
        (lambda steps: steps[:1] + steps[2:], "step 1 should stand here"),
        (lambda steps: steps[:1] + steps[:1], "step 1 should stand here"),
        (lambda steps: (), "nobody has published"),
        (lambda steps: steps[:1] * 513, "at most 512"),
    ],
)
def test_each_broken_rule_has_its_own_word(broken: object, said: str) -> None:
    """Whatever is done to a chain, the refusal says at which step and what was found."""
    with pytest.raises(AuthorshipError, match=said):
        verify_chain(broken(_whole().steps))  # type: ignore[operator]


def test_versions_grow() -> None:
    """The same version, or an older one, does not follow; 1.10.0 follows 1.9.0."""
    author = Author()
    author.publish(persona_of(version="1.9.0"))
    author.publish(persona_of(version="1.10.0"))
    assert author.state is not None
    author.publish(persona_of(version="1.9.1"))
    with pytest.raises(AuthorshipError, match=r"version 1.9.1 does not follow 1.10.0"):
        verify_chain(author.steps)


def test_a_withdrawn_handle_is_not_withdrawn_again() -> None:
    """A second withdrawal would say nothing."""
    author = Author()
    author.publish(persona_of())
    author.withdraw()
    author.withdraw()
    with pytest.raises(AuthorshipError, match="withdrawn already"):
        verify_chain(author.steps)


def test_an_offer_is_for_one_key() -> None:
    """Only the key that a hand-over names can accept it."""
    author = Author()
    author.publish(persona_of())
    offer = replace(author.hand_over(OTHER), new_signature=b"")
    with pytest.raises(AuthorshipError, match="another key"):
        offer.accepted(key_of(3))


def test_a_claim_is_of_handle_and_number_alone() -> None:
    """Two steps in one place have one claim; places that look alike have two."""
    assert claim_entry("night-owl", 1) == claim_entry("night-owl", 1)
    assert (
        len({claim_entry("night-owl", 1), claim_entry("night-owl", 11), claim_entry("n", 1)}) == 3
    )


def test_fingerprints() -> None:
    """A fingerprint is 128 bits, and is recognised without its dashes and in capitals."""
    key = public_key(OTHER)
    text = fingerprint(key)
    assert len(text.replace("-", "")) == 32
    assert has_fingerprint(key, text.replace("-", "").upper())
    assert not has_fingerprint(key, text[:-1])
    assert not has_fingerprint(public_key(key_of(3)), text)


def test_a_listing_tells_what_is_public() -> None:
    """Of a private persona the description is not listed; of a public one its beginning."""
    persona = persona_of(description="secret " * 1_000)
    assert Listing.of(persona, private=True).description == ""
    assert Listing.of(persona).description == persona.description[:MAX_DESCRIPTION]


def test_a_definition_is_held_against_its_listing() -> None:
    """Another definition is told from a listing that says something else."""
    persona = persona_of()
    listing = Listing.of(persona)
    assert check_definition(canonical(persona), listing) == persona
    with pytest.raises(AuthorshipError, match="digest that its creator"):
        check_definition(canonical(persona_of(greeting="Hm.")), listing)
    with pytest.raises(AuthorshipError, match="does not say what"):
        check_definition(canonical(persona), replace(listing, rating="teen"))


def test_a_sealed_definition_opens_for_its_key_handle_and_digest_alone() -> None:
    """Handle and digest are bound, and a changed byte is noticed."""
    key, digest, text = bytes(32), bytes(range(32)), b'{"name":"x"}'
    sealed = seal_definition(key, "night-owl", digest, text, nonce=bytes(12))
    assert open_definition(key, "night-owl", digest, sealed) == text
    for arguments in (
        (b"\x01" * 32, "night-owl", digest, sealed),
        (key, "day-owl", digest, sealed),
        (key, "night-owl", bytes(32), sealed),
        (key, "night-owl", digest, sealed[:-1]),
        (key, "night-owl", digest, b""),
    ):
        with pytest.raises(SealedError, match="does not open"):
            open_definition(*arguments)


@pytest.mark.parametrize("length", [0, 1, STEP_BYTES - 4, STEP_BYTES - 3, 3 * STEP_BYTES])
def test_the_length_of_a_sealed_definition_is_round(length: int) -> None:
    """An operator learns its length in steps of 4 KiB only."""
    text = b"x" * length
    sealed = seal_definition(bytes(32), "night-owl", bytes(32), text, nonce=bytes(12))
    assert (len(sealed) - 28) % STEP_BYTES == 0
    assert open_definition(bytes(32), "night-owl", bytes(32), sealed) == text


def test_kinds_are_those_of_the_format() -> None:
    """The words that stand in signed JSON never change."""
    assert [one.value for one in StepKind] == ["publish", "hand-over", "withdraw"]
