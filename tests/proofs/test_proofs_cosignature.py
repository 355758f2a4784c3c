"""Cosignatures: the published examples, both types, and what must not count."""

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from proofs_support import LOG, NOW, private_key

from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.cosignature import Cosigner, verify_cosignatures
from proofs.errors import RefusedError, UnreadableError
from proofs.note import (
    COSIGNER_KEYS,
    KeyType,
    Note,
    Signature,
    VerifierKey,
    parse_note,
    parse_vkey,
)

# Printed in c2sp.org/tlog-cosignature.
PUBLISHED = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJs"
    "X3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
SIGNED_MESSAGE = (
    "cosignature/v1\n"
    "time 1679315147\n"
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
)
ED = Cosigner("witness.example/w1", private_key(11))
ML = Cosigner("witness.example/w1", MLDSA44PrivateKey.from_seed_bytes(bytes([12]) * 32))
BOTH = pytest.mark.parametrize("cosigner", [ED, ML], ids=["ed25519", "ml-dsa-44"])
HEAD = LOG.sign(Checkpoint(LOG.name, 7, b"r" * 32).format())


def cosigned_message(note: Note, time: int) -> bytes:
    """What ML signs of a note, laid out from the specification a second time."""
    head = parse_checkpoint(note.text)
    name, origin = ML.name.encode(), head.origin.encode()
    return struct.pack(
        f">12s B{len(name)}s Q B{len(origin)}s QQ 32s",
        b"subtree/v1\n\0",
        *(len(name), name, time, len(origin), origin, 0, head.size, head.root),
    )


def cosigned(*signatures: Signature, note: Note = HEAD) -> Note:
    return parse_note(Note(note.text, (*note.signatures, *signatures)).format())


def test_published_example_has_the_form_it_is_said_to_have() -> None:
    """Its cosignature is of the printed time; nobody published the key that would verify it."""
    note = parse_note(PUBLISHED)
    assert parse_checkpoint(note.text).size == 20852163
    line = note.signatures[1]
    assert len(line.signature) == 72
    assert int.from_bytes(line.signature[:8], "big") == 1679315147
    # Under a key that happened to have this id it would be refused, and not taken.
    assert verify_cosignatures(note, [ED.verifier, ML.verifier]) == ()


def test_ed25519_signs_the_published_message() -> None:
    """What is signed for the published checkpoint at its time is, byte for byte, as printed."""
    note = parse_note(PUBLISHED)
    line = ED.cosign(note, 1679315147)
    key = Ed25519PublicKey.from_public_bytes(ED.verifier.public_key)
    key.verify(line.signature[8:], SIGNED_MESSAGE.encode())


def test_ml_dsa_signs_the_published_structure() -> None:
    """The structure `cosigned_message`, as the specification lays it out."""
    note = parse_note(PUBLISHED)
    line = ML.cosign(note, 1679315147)
    message = cosigned_message(note, 1679315147)
    assert len(line.signature) == 8 + 2420
    MLDSA44PublicKey.from_public_bytes(ML.verifier.public_key).verify(line.signature[8:], message)


@BOTH
def test_a_cosignature_verifies_with_its_time(cosigner: Cosigner) -> None:
    """What is made is found again, in the note as it is published."""
    note = cosigned(cosigner.cosign(HEAD, NOW))
    (found,) = verify_cosignatures(note, [cosigner.verifier])
    assert (found.key, found.time) == (cosigner.verifier, NOW)
    assert "PrivateKey" not in repr(cosigner)


@BOTH
def test_vkeys_of_cosigners_round_trip(cosigner: Cosigner) -> None:
    """Both types have a vkey, which is not taken for a log's."""
    vkey = cosigner.verifier.format()
    assert parse_vkey(vkey, COSIGNER_KEYS) == cosigner.verifier
    with pytest.raises(UnreadableError, match="0x01"):
        parse_vkey(vkey)
    with pytest.raises(UnreadableError, match="0x04 or 0x06"):
        parse_vkey(LOG.verifier.format(), COSIGNER_KEYS)


@BOTH
def test_a_key_in_the_wrong_role_is_refused(cosigner: Cosigner) -> None:
    """A witness's key signs no note for a log, and a log's key makes no cosignature."""
    note = cosigned(cosigner.cosign(HEAD, NOW))
    with pytest.raises(RefusedError, match="Pin the right one"):
        note.verify([cosigner.verifier])
    with pytest.raises(RefusedError, match="Pin the right one"):
        verify_cosignatures(note, [LOG.verifier])


def test_one_ed25519_key_has_an_id_of_its_own_in_each_role() -> None:
    """The same key as log and as witness makes signatures that cannot be exchanged."""
    as_log = VerifierKey(ED.name, ED.verifier.public_key)
    assert as_log.key_id != ED.verifier.key_id
    line = ED.cosign(HEAD, NOW)
    swapped = replace(line, key_id=as_log.key_id, signature=line.signature[8:])
    with pytest.raises(RefusedError, match="false"):
        Note(HEAD.text, (swapped,)).verify([as_log])


@BOTH
def test_every_changed_byte_of_a_cosignature_is_refused(cosigner: Cosigner) -> None:
    """Time and signature are covered whole; a known key's false cosignature refuses the note."""
    line = cosigner.cosign(HEAD, NOW)
    step = max(1, len(line.signature) // 200)
    for index in (*range(8), *range(8, len(line.signature), step)):
        changed = bytearray(line.signature)
        changed[index] ^= 1
        note = cosigned(replace(line, signature=bytes(changed)))
        with pytest.raises(RefusedError, match="false"):
            verify_cosignatures(note, [cosigner.verifier])


@BOTH
def test_a_cosignature_of_any_other_length_is_refused(cosigner: Cosigner) -> None:
    """Cut or continued it is none, and lengths are looked at before anything is verified."""
    line = cosigner.cosign(HEAD, NOW)
    whole = line.signature
    for data in (whole[:1], whole[:8], whole[:9], whole[:-1], whole + b"\0", whole[8:]):
        with pytest.raises(RefusedError, match="false"):
            verify_cosignatures(cosigned(replace(line, signature=data)), [cosigner.verifier])


@BOTH
def test_a_cosignature_belongs_to_its_checkpoint(cosigner: Cosigner) -> None:
    """It holds for no other size, root or origin."""
    line = cosigner.cosign(HEAD, NOW)
    for other in (
        Checkpoint(LOG.name, 8, b"r" * 32),
        Checkpoint(LOG.name, 7, b"s" * 32),
        Checkpoint("log.example/two", 7, b"r" * 32),
    ):
        note = Note(other.format(), (line,))
        with pytest.raises(RefusedError, match="false"):
            verify_cosignatures(note, [cosigner.verifier])


def test_extension_lines_are_covered_by_ed25519_alone() -> None:
    """As the specification says, ML-DSA-44 says nothing about them."""
    extended = Note(HEAD.text + "extension\n", HEAD.signatures)
    (found,) = verify_cosignatures(cosigned(ML.cosign(HEAD, NOW), note=extended), [ML.verifier])
    assert found.time == NOW
    with pytest.raises(RefusedError, match="false"):
        verify_cosignatures(cosigned(ED.cosign(HEAD, NOW), note=extended), [ED.verifier])


def test_only_ml_dsa_commits_to_the_cosigners_name() -> None:
    """Under another name its cosignature is false; an Ed25519 key counts once under any number."""
    for cosigner in (ED, ML):
        line = cosigner.cosign(HEAD, NOW)
        other = replace(cosigner.verifier, name="witness.example/w2")
        renamed = Signature(other.name, other.key_id, line.signature)
        note = cosigned(line, renamed)
        if cosigner is ML:
            with pytest.raises(RefusedError, match="false"):
                verify_cosignatures(note, [other])
        else:
            assert len(verify_cosignatures(note, [other, cosigner.verifier])) == 1


@BOTH
def test_a_key_counts_once_however_often_it_cosigned(cosigner: Cosigner) -> None:
    """Of several cosignatures by one key the latest says as of when."""
    times = (NOW, NOW + 9, NOW + 3)
    note = cosigned(*(cosigner.cosign(HEAD, at) for at in times))
    (found,) = verify_cosignatures(note, [cosigner.verifier, cosigner.verifier])
    assert found.time == NOW + 9
    # All of them are verified: a false one behind a true one still refuses the note.
    false = replace(cosigner.cosign(HEAD, NOW), signature=note.signatures[1].signature[:-1] + b"x")
    with pytest.raises(RefusedError, match="false"):
        verify_cosignatures(cosigned(*note.signatures[1:], false), [cosigner.verifier])


def test_unknown_cosigners_are_ignored() -> None:
    """Whoever else signed neither helps nor hurts, also under a known name with another key."""
    stranger = Cosigner(ED.name, private_key(13))
    note = cosigned(stranger.cosign(HEAD, NOW), ED.cosign(HEAD, NOW), ML.cosign(HEAD, NOW))
    assert [c.key for c in verify_cosignatures(note, [ML.verifier])] == [ML.verifier]
    assert len(verify_cosignatures(note, [ED.verifier, ML.verifier])) == 2
    assert verify_cosignatures(note, []) == ()


@BOTH
@pytest.mark.parametrize("at", [0, -1, 2**63])
def test_a_cosignature_has_a_time(cosigner: Cosigner, at: int) -> None:
    """None is made without one, or of one that does not fit."""
    with pytest.raises(RefusedError, match="clock"):
        cosigner.cosign(HEAD, at)


def test_zero_and_too_large_times_when_verified() -> None:
    """A time of 0 makes no statement about it, in ML-DSA-44 alone; 2^63 is beyond every clock."""
    for cosigner in (ED, ML):
        for at in (0, 2**63):
            # Truly signed, so that nothing but the time can be why it is refused.
            ed25519 = f"cosignature/v1\ntime {at}\n{HEAD.text}".encode()
            message = cosigned_message(HEAD, at) if cosigner is ML else ed25519
            data = at.to_bytes(8, "big") + cosigner.key.sign(message)
            note = cosigned(Signature(cosigner.name, cosigner.verifier.key_id, data))
            if at == 0 and cosigner is ML:
                (found,) = verify_cosignatures(note, [cosigner.verifier])
                assert found.time == 0
            else:
                with pytest.raises(RefusedError, match="false"):
                    verify_cosignatures(note, [cosigner.verifier])


def test_what_is_no_checkpoint_is_never_cosigned() -> None:
    """A note of another kind cannot be passed off as a tree head."""
    note = LOG.sign("a text that is no checkpoint\n")
    for cosigner in (ED, ML):
        with pytest.raises(UnreadableError):
            cosigner.cosign(note, NOW)
        with pytest.raises(UnreadableError):
            verify_cosignatures(note, [cosigner.verifier])


def test_names_that_ml_dsa_cannot_carry_are_refused() -> None:
    """The structure has 255 bytes for a name; what does not fit is neither made nor believed."""
    origin = "o" * 256
    head = Note(Checkpoint(origin, 1, bytes(32)).format(), HEAD.signatures)
    with pytest.raises(RefusedError, match="255"):
        ML.cosign(head, NOW)
    line = Signature(ML.name, ML.verifier.key_id, bytes(2428))
    with pytest.raises(RefusedError, match="255"):
        verify_cosignatures(Note(head.text, (line,)), [ML.verifier])
    assert ED.cosign(head, NOW)


def test_a_public_key_that_is_none_is_a_refusal() -> None:
    """Whatever the library says of nonsense of the right length, it is ours to say."""
    for key_type, size in (
        (KeyType.ED25519_COSIGNATURE, 32),
        (KeyType.ML_DSA_44_COSIGNATURE, 1312),
    ):
        key = VerifierKey("w", b"\xff" * size, key_type)
        length = 72 if size == 32 else 2428
        line = Signature("w", key.key_id, b"\0" * 7 + b"\1" + bytes(length - 8))
        with pytest.raises(RefusedError, match="false"):
            verify_cosignatures(cosigned(line), [key])
        with pytest.raises(UnreadableError):
            VerifierKey("w", b"\xff" * (size - 1), key_type)
