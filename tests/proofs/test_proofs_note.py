"""Signed notes, checkpoints and log proofs: the published examples, and what must be refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from proofs_support import LOG, private_key, prove

from proofs import b64, merkle
from proofs.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from proofs.cosignature import Cosigner
from proofs.errors import RefusedError, UnreadableError
from proofs.note import (
    COSIGNER_KEYS,
    MAX_SIGNATURES,
    MAX_VKEY,
    KeyType,
    Note,
    Signature,
    Signer,
    VerifierKey,
    parse_note,
    parse_vkey,
)
from proofs.tlogproof import TlogProof, parse_tlog_proof

# Printed in c2sp.org/signed-note.
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n"
    "\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3m"
    "FXmRKuwHjG1Yu72IneyaQM=\n"
)
ENTRIES = [bytes([i]) * 32 for i in range(11)]


def test_published_example_verifies() -> None:
    """The note and the verifier key that the specification prints belong together."""
    key = parse_vkey(VKEY)
    note = parse_note(NOTE)
    assert note.text == "This is an example message.\n"
    assert note.verify([key]) == (key,)
    assert key.format() == VKEY
    assert note.format() == NOTE


def test_changed_text_is_refused() -> None:
    """A known key's false signature refuses the note, whatever else signed it."""
    note = parse_note(NOTE.replace("example message", "exemplary message"))
    with pytest.raises(RefusedError, match="false"):
        note.verify([parse_vkey(VKEY)])
    good = LOG.sign(note.text).signatures
    with pytest.raises(RefusedError, match="false"):
        Note(note.text, (*good, *note.signatures)).verify([LOG.verifier, parse_vkey(VKEY)])


def test_unknown_signatures_are_ignored() -> None:
    """A cosignature of an unknown type or key neither helps nor hurts."""
    stranger = Signature("witness.example", b"\x01\x02\x03\x04", b"x" * 72)
    text = LOG.sign("text\n")
    note = parse_note(Note(text.text, (stranger, *text.signatures)).format())
    assert note.verify([LOG.verifier]) == (LOG.verifier,)
    with pytest.raises(RefusedError, match="No pinned key"):
        Note(text.text, (stranger,)).verify([LOG.verifier])


def test_same_name_with_another_key_is_a_stranger() -> None:
    """Whoever signs under the log's name with a key of his own is not the log."""
    other = Signer(LOG.name, private_key(9))
    with pytest.raises(RefusedError, match="No pinned key"):
        other.sign("text\n").verify([LOG.verifier])


def test_text_may_hold_empty_lines() -> None:
    """The last empty line separates text and signatures, as the specification's poem needs."""
    text = "Ognuno sta solo sul cuor della terra\n\ned è subito sera.\n"
    assert parse_note(LOG.sign(text).format()).text == text


@pytest.mark.parametrize(
    "data",
    [
        "",
        "\n",
        "\n\n",
        "text\n\n",
        NOTE[:-1],
        NOTE + "\n",
        NOTE + "x",
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\u2014 ", "\u2014"),
        NOTE.replace("\u2014 ", "- "),
        NOTE.replace("example.com/foo ", ""),
        NOTE.replace("example.com/foo", "example.com/f+o"),
        NOTE.replace("example.com/foo", "example.com/f\u00a0o"),
        NOTE.replace("aQM=", "aQN="),
        NOTE.replace("aQM=", "aQM"),
        NOTE.replace("aQM=", "aQ M="),
        NOTE.replace("is an", "is\tan"),
        NOTE.replace("is an", "is\ran"),
        NOTE.replace("is an", "is\ud800an"),
        "text\n\n\u2014 name AAAA\n",
        "text\n\n" + "\u2014 name AAAAAAA=\n" * (MAX_SIGNATURES + 1),
        "x" * 300_000 + NOTE,
    ],
)
def test_malformed_notes_are_unreadable(data: str) -> None:
    """What is not exactly a signed note is refused before any signature is looked at."""
    with pytest.raises(UnreadableError):
        parse_note(data)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+530d903a",
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("example.com/foo", "example.com/bar"),
        VKEY.replace("AekyeR", "BOkyeR"),
        VKEY + "=",
        VKEY[:-4],
        VKEY + " ",
        " " + VKEY,
    ],
)
def test_malformed_verifier_keys_are_unreadable(vkey: str) -> None:
    """A verifier key with a typing error anywhere is not silently another key."""
    with pytest.raises(UnreadableError):
        parse_vkey(vkey)


COSIGNERS = [
    Cosigner("witness.example/w1", private_key(11)).verifier,
    Cosigner("witness.example/w1", MLDSA44PrivateKey.from_seed_bytes(bytes(32))).verifier,
]


@pytest.mark.parametrize("key", COSIGNERS, ids=["ed25519", "ml-dsa-44"])
def test_cosigners_keys_have_one_spelling(key: VerifierKey) -> None:
    """A witness's vkey is read as strictly as a log's: cut, continued or retyped it is none."""
    vkey = key.format()
    assert parse_vkey(vkey, COSIGNER_KEYS) == key
    name, key_id, material = vkey.split("+", 2)
    raw = b64.decode(material, "key")
    ends = [*range(100), len(vkey) - 4, len(vkey) - 1] if len(vkey) > 200 else range(len(vkey))
    broken = [vkey[:end] for end in ends if end < len(vkey)]
    broken += [vkey + tail for tail in (" ", "\n", "=", "AAAA")]
    for other in range(256):
        if other != raw[0]:
            broken.append(f"{name}+{key_id}+{b64.encode(bytes([other]) + raw[1:])}")
    for text in broken:
        with pytest.raises(UnreadableError):
            parse_vkey(text, COSIGNER_KEYS)


def test_a_key_id_is_of_name_type_and_key() -> None:
    """The same bytes under another type or name are another key, as the specification wants."""
    raw = private_key(11).public_key().public_bytes_raw()
    keys = [
        VerifierKey(name, raw, key_type)
        for name in ("a", "b")
        for key_type in (KeyType.ED25519, KeyType.ED25519_COSIGNATURE)
    ]
    assert len({key.key_id for key in keys}) == len(keys)


def test_long_verifier_keys_are_refused_unread() -> None:
    """The limit is looked at before base64 is."""
    with pytest.raises(UnreadableError, match=str(MAX_VKEY)):
        parse_vkey("x" * MAX_VKEY + VKEY, COSIGNER_KEYS)


def test_checkpoint_round_trip() -> None:
    """A signed checkpoint opens to what was signed, extensions included."""
    head = Checkpoint(LOG.name, 20852163, bytes(32), ("extension",))
    assert open_checkpoint(LOG.sign(head.format()).format(), [LOG.verifier]) == head


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n1\n",
        f"origin\n1\n{b64.encode(bytes(32))}",
        f"\n1\n{b64.encode(bytes(32))}\n",
        f"origin\n01\n{b64.encode(bytes(32))}\n",
        f"origin\n-1\n{b64.encode(bytes(32))}\n",
        f"origin\n\u0661\n{b64.encode(bytes(32))}\n",
        f"origin\n{2**63}\n{b64.encode(bytes(32))}\n",
        f"origin\n{'9' * 5000}\n{b64.encode(bytes(32))}\n",
        f"origin\n1\n{b64.encode(bytes(31))}\n",
        f"origin\n1\n{b64.encode(bytes(32))}\n\n",
        f"origin\n1\n{b64.encode(bytes(32))}\n\nextension\n",
    ],
)
def test_malformed_checkpoints_are_unreadable(text: str) -> None:
    """A checkpoint has one spelling."""
    with pytest.raises(UnreadableError):
        parse_checkpoint(text)


def test_checkpoint_of_another_origin_is_refused() -> None:
    """A trusted log's signature on a checkpoint that names another log counts for nothing."""
    head = Checkpoint("log.example/two", 1, bytes(32))
    with pytest.raises(RefusedError, match="not pinned"):
        open_checkpoint(LOG.sign(head.format()).format(), [LOG.verifier])


def test_log_proof_holds_for_its_entry_alone() -> None:
    """A proof leads its own entry to the log's root, and no other entry."""
    for entry in ENTRIES:
        text = prove(entry, ENTRIES)
        proof = parse_tlog_proof(text)
        assert proof.format() == text
        assert proof.verify(entry, [LOG.verifier]).size == len(ENTRIES)
        for other in ENTRIES:
            if other != entry:
                with pytest.raises(RefusedError, match="path"):
                    proof.verify(other, [LOG.verifier])


def test_log_proof_in_a_tree_of_one_and_with_extra_data() -> None:
    """A path may be empty, and extra data is carried without being believed."""
    proof = parse_tlog_proof(prove(ENTRIES[0], ENTRIES[:1]))
    assert proof.path == ()
    extended = TlogProof(proof.index, proof.path, proof.checkpoint, b"extra data")
    parsed = parse_tlog_proof(extended.format())
    assert parsed == extended
    assert parsed.verify(ENTRIES[0], [LOG.verifier]).root == merkle.root(
        [merkle.leaf_hash(ENTRIES[0])]
    )


def test_log_proof_cut_anywhere_or_with_a_tail_is_unreadable() -> None:
    """There is no shorter or longer text that reads as the same proof."""
    text = prove(ENTRIES[4], ENTRIES)
    for end in range(len(text)):
        with pytest.raises(UnreadableError):
            parse_tlog_proof(text[:end])
    for tail in ("\n", " ", "x", "\u2014"):
        with pytest.raises(UnreadableError):
            parse_tlog_proof(text + tail)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("index 4", "index 04"),
        ("index 4", "index -4"),
        ("index 4", "index  4"),
        ("index 4\n", ""),
        ("index 4", "extra !\nindex 4"),
        ("index 4", "extra \n\nindex 4"),
        ("index 4", "index 4\nAAAA"),
        ("index 4\n", "index 4\n" + (b64.encode(bytes(32)) + "\n") * 64),
        ("index 4\n", "index 4\r\n"),
    ],
)
def test_malformed_log_proofs_are_unreadable(old: str, new: str) -> None:
    """A log proof has one spelling, and a path no longer than a tree can be high."""
    text = prove(ENTRIES[4], ENTRIES)
    assert old in text
    with pytest.raises(UnreadableError):
        parse_tlog_proof(text.replace(old, new, 1))


def test_signer_refuses_what_could_not_be_read_back() -> None:
    """A text with a control character never leaves as a signed note."""
    with pytest.raises(UnreadableError):
        LOG.sign("text\x00\n")
    assert "PrivateKey" not in repr(LOG)
