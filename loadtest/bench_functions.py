"""Benches of single functions: sealing and verifying, against the cryptography inside them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pyhpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loadtest.rounds import Comparison, Effort, side_by_side
from proofs import merkle
from proofs.bundle import Bundle, bundle_entry, make_bundle
from proofs.checkpoint import Checkpoint
from proofs.claims import Claims
from proofs.disclosure import Disclosure, encode_disclosure
from proofs.ed25519 import raw_public
from proofs.evidence.simulated import SimulatedPlatform
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import Outcome, Receipt, receipt_entry, sign_receipt
from proofs.tlogproof import TlogProof
from proofs.verify import verify_bundle, verify_disclosure
from runtime.errors import SottoError
from transport.gateway import ChunkedRequestOpener, decapsulate
from transport.hpke import KEM_ML_KEM_768, KEM_P256_HKDF_SHA256, KEM_X_WING
from transport.keyconfig import GatewayKey
from transport.ohttp import ChunkedRequestSealer, encapsulate

_BYTES = 400  # a few deltas that were ready together
_LOG_SIZE = 1000  # entries: an inclusion path of ten hashes


def seal(effort: Effort) -> Iterator[Comparison]:
    """Chunks against the bare AEAD, requests against bare HPKE, other KEMs against X25519."""
    key = GatewayKey.generate(1, os.urandom(32))
    for direction, chunk in (("response", _response_chunk), ("request", _request_chunk)):
        yield side_by_side(
            f"seal and open a {direction} chunk",
            "AES-128-GCM",
            chunk(key),
            _bare_chunk(),
            effort,
        )
    yield side_by_side(
        f"encapsulate and decapsulate {_BYTES} bytes",
        "pyhpke's contexts",
        _one_shot(key),
        _bare_contexts(),
        effort,
    )
    for name, kem_id in (
        ("X-Wing", KEM_X_WING),
        ("ML-KEM-768", KEM_ML_KEM_768),
        ("P-256", KEM_P256_HKDF_SHA256),
    ):
        yield side_by_side(
            f"the same with {name}",
            "X25519",
            _one_shot(GatewayKey.generate(1, os.urandom(32), kem_id=kem_id)),
            _one_shot(key),
            effort,
        )


def _one_shot(key: GatewayKey) -> Callable[[], object]:
    return lambda: decapsulate({1: key}, encapsulate(key.config, bytes(_BYTES))[0])


def _response_chunk(key: GatewayKey) -> Callable[[], object]:
    """Both ends of one chunk of a response."""
    device, gateway = ChunkedRequestSealer(key.config), ChunkedRequestOpener({1: key})
    gateway.feed(device.seal(b"request", final=True))
    gateway.finish()
    sealer = gateway.response_sealer(os.urandom(gateway.nonce_length))
    opener, data = device.response_opener(), bytes(_BYTES)
    return lambda: opener.feed(sealer.seal(data))


def _request_chunk(key: GatewayKey) -> Callable[[], object]:
    """Both ends of one chunk of a request."""
    device, gateway = ChunkedRequestSealer(key.config), ChunkedRequestOpener({1: key})
    gateway.feed(device.seal(b"request"))
    data = bytes(_BYTES)
    return lambda: gateway.feed(device.seal(data))


def _bare_chunk() -> Callable[[], object]:
    # One nonce throughout: nothing here is secret, and counting them is part of what is compared.
    cipher, nonce, data = AESGCM(os.urandom(16)), bytes(12), bytes(_BYTES)
    return lambda: cipher.decrypt(nonce, cipher.encrypt(nonce, data, b""), b"")


def _bare_contexts() -> Callable[[], object]:
    """Sender and recipient contexts, and one message, of the suite that `encapsulate` takes."""
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.AES128_GCM
    )
    pair, data = suite.kem.derive_key_pair(os.urandom(32)), bytes(_BYTES)

    def work() -> object:
        enc, sender = suite.create_sender_context(pair.public_key, b"info")
        recipient = suite.create_recipient_context(enc, pair.private_key, b"info")
        return recipient.open(sender.seal(data))

    return work


def verify(effort: Effort) -> Iterator[Comparison]:
    """Proofs in units that anyone can compare: single Ed25519 operations."""
    now = int(time.time())
    root, key, log_key = (Ed25519PrivateKey.generate() for _ in range(3))
    made = _attest(root, key, now)
    receipt = a_receipt(made.digest, now)
    signed, bundle = sign_receipt(receipt, key), made.encode()
    log = Signer("bench.example/log", log_key)
    receipt_proof, bundle_proof = prove(log, receipt_entry(signed), bundle_entry(bundle))
    disclosure = encode_disclosure(Disclosure(signed, receipt_proof, b"", bundle, bundle_proof))
    policy = Policy.strict().allowing_simulated([raw_public(root)]).trusting_logs([log.verifier])
    if not verify_disclosure(disclosure, policy, now).holds:
        raise SottoError("the bench's own disclosure does not hold: a defect to be reported")
    public, signature = key.public_key(), key.sign(signed)
    yield side_by_side(
        "verify_disclosure",
        "one Ed25519 verify",
        lambda: verify_disclosure(disclosure, policy, now),
        lambda: public.verify(signature, signed),
        effort,
    )
    yield side_by_side(
        "verify_bundle",
        "one Ed25519 verify",
        lambda: verify_bundle(bundle, bundle_proof, policy, now),
        lambda: public.verify(signature, signed),
        effort,
    )
    yield side_by_side(
        "sign_receipt",
        "one Ed25519 sign",
        lambda: sign_receipt(receipt, key),
        lambda: key.sign(signed),
        effort,
    )


def _attest(root: Ed25519PrivateKey, key: Ed25519PrivateKey, now: int) -> Bundle:
    measurements = (("vm.image", bytes(48)),)
    platform = SimulatedPlatform.create(root, os.urandom(32), measurements=measurements)
    return make_bundle(some_claims(measurements, key, now), platform, now)


def some_claims(
    measurements: tuple[tuple[str, bytes], ...], key: Ed25519PrivateKey, now: int
) -> Claims:
    return Claims(
        key_configs=(GatewayKey.generate(1, os.urandom(32)).config.encode(),),
        receipt_key=raw_public(key),
        measurements=measurements,
        release=bytes(32),
        model_manifest=bytes(32),
        engine="scripted",
        model="script",
        not_before=now,
        not_after=now + 3600,
        epoch=0,
    )


def a_receipt(enclave: bytes, now: int) -> Receipt:
    return Receipt(
        receipt_id=os.urandom(16),
        enclave=enclave,
        key_config_id=1,
        persona=bytes(32),
        model_manifest=bytes(32),
        release=bytes(32),
        request=os.urandom(32),
        response=os.urandom(32),
        head_before=os.urandom(32),
        head_after=os.urandom(32),
        turn_index=1,
        previous=os.urandom(32),
        sampling=bytes(32),
        outcome=Outcome.COMPLETED,
        time=now,
        epoch=0,
    )


def prove(log: Signer, *entries: bytes) -> list[str]:
    """Inclusion proofs of entries among many others."""
    filler = [os.urandom(32) for _ in range(_LOG_SIZE - len(entries))]
    leaves = [merkle.leaf_hash(entry) for entry in (*entries, *filler)]
    head = log.sign(Checkpoint(log.name, len(leaves), merkle.root(leaves)).format())
    subtree = merkle.subtree_of(leaves)
    paths = (merkle.inclusion_proof(n, len(leaves), subtree) for n in range(len(entries)))
    return [TlogProof(n, tuple(path), head).format() for n, path in enumerate(paths)]
