"""Evidence, receipts and the log: what is read re-encodes to itself, and all else is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz_support import Target, mutate

from proofs import cbor, merkle
from proofs.bundle import bundle_entry, decode_bundle, make_bundle
from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.claims import Claims, decode_claims
from proofs.cose import decode_sign1
from proofs.disclosure import decode_disclosure, encode_disclosure
from proofs.ed25519 import raw_public
from proofs.errors import ProofError, UnreadableError
from proofs.evidence.simulated import SimulatedPlatform
from proofs.note import Signer, parse_note, parse_vkey
from proofs.policy import Policy
from proofs.receipt import TYPE, Outcome, Receipt, decode_receipt, receipt_entry, sign_receipt
from proofs.tiles import decode_entries, encode_entries, parse_tile
from proofs.tlogproof import TlogProof, parse_tlog_proof
from proofs.verify import verify_disclosure

NOW = 1_800_000_000
ROOT, RECEIPT_KEY, LOG_KEY = (
    Ed25519PrivateKey.from_private_bytes(bytes((number,)) * 32) for number in (1, 2, 3)
)
LOG = Signer("log.example/fuzz", LOG_KEY)
MEASUREMENTS = (("vm.image", b"\x02" * 48),)


@cache
def _claims() -> Claims:
    return Claims(
        key_configs=(b"\x07config",),
        receipt_key=raw_public(RECEIPT_KEY),
        measurements=MEASUREMENTS,
        release=b"r" * 32,
        model_manifest=b"m" * 32,
        engine="scripted",
        model="a model",
        not_before=NOW,
        not_after=NOW + 3600,
        epoch=4,
    )


@cache
def _bundle() -> bytes:
    platform = SimulatedPlatform.create(ROOT, b"s" * 32, measurements=MEASUREMENTS)
    return make_bundle(_claims(), platform, NOW).encode()


@cache
def _receipt() -> bytes:
    receipt = Receipt(
        receipt_id=b"i" * 16,
        enclave=decode_bundle(_bundle()).digest,
        key_config_id=7,
        persona=b"p" * 32,
        model_manifest=b"m" * 32,
        release=b"r" * 32,
        request=b"q" * 32,
        response=b"a" * 32,
        head_before=None,
        head_after=b"h" * 32,
        turn_index=0,
        previous=None,
        sampling=b"s" * 32,
        outcome=Outcome.COMPLETED,
        time=NOW + 60,
        epoch=4,
    )
    return sign_receipt(receipt, RECEIPT_KEY)


@cache
def _proof(entry: bytes) -> str:
    leaves = [merkle.leaf_hash(one) for one in (b"another", entry, b"last")]
    path = merkle.inclusion_proof(1, len(leaves), merkle.subtree_of(leaves))
    head = Checkpoint(LOG.name, len(leaves), merkle.root(leaves))
    return TlogProof(1, tuple(path), LOG.sign(head.format())).format()


@cache
def _disclosure() -> bytes:
    proofs = _proof(receipt_entry(_receipt())), _proof(bundle_entry(_bundle()))
    return encode_disclosure(_receipt(), proofs[0], _bundle(), proofs[1])


@cache
def _policy() -> Policy:
    return Policy(
        allow_simulated=True,
        simulated_roots=(raw_public(ROOT),),
        measurements=(dict(MEASUREMENTS),),
        log_keys=(LOG.verifier,),
    )


def _strict(decode_and_encode: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    """A target: what is read re-encodes to the same bytes, what is not is unreadable."""

    def run(data: bytes) -> None:
        try:
            again = decode_and_encode(data)
        except UnreadableError:
            return
        assert again == data

    return run


def _strict_text(parse_and_format: Callable[[str], str]) -> Callable[[bytes], None]:
    # Any code point may stand in a text that a caller hands over, halves of pairs too.
    return _strict(
        lambda data: parse_and_format(data.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )
    )


def _sign1(data: bytes) -> bytes:
    one = decode_sign1(data, TYPE)
    one.verifies(raw_public(RECEIPT_KEY))
    return cbor.encode(cbor2.CBORTag(18, [one.protected, {}, one.payload, one.signature]))


def _read_receipt(data: bytes) -> bytes:
    signed = decode_receipt(data)
    message = decode_sign1(data, TYPE)
    assert signed.unverified.encode() == message.payload
    return signed.encoded


def _read_disclosure(data: bytes) -> bytes:
    one = decode_disclosure(data)
    return encode_disclosure(one.receipt, one.receipt_proof, one.bundle, one.bundle_proof)


def _read_entries(data: bytes) -> bytes:
    width = data[0] + 1 if data else 1
    entries = decode_entries(data[1:], width)
    assert len(entries) == width
    return data[:1] + encode_entries(entries)


def _holds(disclosure: bytes) -> bool:
    try:
        return verify_disclosure(disclosure, _policy(), NOW + 60).holds
    except ProofError:
        return False


def _verify(script: bytes) -> None:
    """A disclosure with bytes changed does not hold."""
    changed = mutate(_disclosure(), script)
    assert _holds(changed) == (changed == _disclosure())


def _verify_parts(script: bytes) -> None:
    """The same for each part by itself, where no checksum stands before the verifier.

    Only what nobody signed may change: a proof's extra line and unknown signatures.
    """
    parts = decode_disclosure(_disclosure())
    which = script[0] % 4 if script else 0
    receipt, bundle = parts.receipt, parts.bundle
    proofs = [parts.receipt_proof, parts.bundle_proof]
    if which == 0:
        receipt = mutate(receipt, script[1:])
    elif which == 1:
        bundle = mutate(bundle, script[1:])
    else:
        text = mutate(proofs[which - 2].encode(), script[1:])
        proofs[which - 2] = text.decode("utf-8", "replace")
    changed = encode_disclosure(receipt, proofs[0], bundle, proofs[1])
    if _holds(changed):
        assert (receipt, bundle) == (parts.receipt, parts.bundle)
    else:
        assert changed != _disclosure()


def _cbor_seeds() -> Iterable[bytes]:
    yield from (_claims().encode(), cbor.encode([1, -1, b"a", "a", None, True, {1: 2, -70000: 3}]))
    yield cbor2.dumps([1.5, cbor2.CBORTag(18, [b""]), 2**70])
    # Tags that CBOR libraries turn into dates, fractions, patterns, shared values and addresses.
    for tag, value in ((0, "x"), (1, 2**60), (4, [9, 9]), (5, [99, 3]), (30, [1, 0]), (35, "(")):
        yield cbor2.dumps(cbor2.CBORTag(tag, value))
    yield bytes.fromhex("d81c81d81d00")
    yield b"\x81" * 100


def _note() -> str:
    return LOG.sign("log.example/fuzz\n3\n" + "A" * 43 + "=\n").format()


TARGETS = {
    "cbor": Target(
        _strict(lambda data: cbor.encode(cbor.decode(data, what="it", limit=4096))), _cbor_seeds
    ),
    "cose": Target(_strict(_sign1), lambda: [_receipt()]),
    "receipt": Target(_strict(_read_receipt), lambda: [_receipt()]),
    "claims": Target(
        _strict(lambda data: decode_claims(data).encode()), lambda: [_claims().encode()]
    ),
    "bundle": Target(_strict(lambda data: decode_bundle(data).encode()), lambda: [_bundle()], 2048),
    "disclosure": Target(_strict(_read_disclosure), lambda: [_disclosure()], 4096),
    "note": Target(
        _strict_text(lambda text: parse_note(text).format()), lambda: [_note().encode()]
    ),
    "vkey": Target(
        _strict_text(lambda text: parse_vkey(text).format()),
        lambda: [LOG.verifier.format().encode()],
        256,
    ),
    "checkpoint": Target(
        _strict_text(lambda text: parse_checkpoint(text).format()),
        lambda: [Checkpoint("log.example/fuzz", 3, b"r" * 32, ("extension",)).format().encode()],
    ),
    "tlog-proof": Target(
        _strict_text(lambda text: parse_tlog_proof(text).format()),
        lambda: [_proof(b"entry").encode()],
    ),
    "tile-path": Target(
        _strict_text(lambda text: parse_tile(text).path),
        lambda: [b"tile/0/000", b"tile/entries/x001/x234/067.p/9", b"tile/3/x001/000.p/255"],
        64,
    ),
    "tile-entries": Target(
        _strict(_read_entries), lambda: [b"\x01\x00\x01a\x00\x02bc", b"\x00\x00\x00"]
    ),
    "verify": Target(_verify, lambda: [b"", b"\x00\x00\x40\x01"], 64, 300),
    "verify-parts": Target(
        _verify_parts,
        lambda: [bytes((which,)) + b"\x00\x00\x40\x01" for which in range(4)],
        64,
        300,
    ),
}
