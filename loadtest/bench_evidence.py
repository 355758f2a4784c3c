"""The bench of complete proofs, against what each may take at most.

Its evidence is real (a TDX quote, an H100's report), read from the folder of test vectors, so it
was not made for the bench's keys: every step is taken, and the report says that the binding fails.
What verification costs does not depend on that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.bench_functions import a_receipt, prove
from loadtest.rounds import Comparison, Effort, cpu_per_call, progress
from memory.keys import ThreadKeys
from proofs.bundle import Bundle, bundle_entry
from proofs.claims import Claims
from proofs.disclosure import Disclosure, encode_disclosure
from proofs.ed25519 import raw_public
from proofs.evidence import nvidia, tdx
from proofs.evidence.certificates import issued
from proofs.evidencecache import EvidenceCache
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import receipt_entry, sign_receipt
from proofs.verify import verify_disclosure
from runtime.sealing import seal_receipt
from transport.keyconfig import GatewayKey

# Within the validity of the quote's collateral.
_AT = 1_750_500_000
_FIRST_MS, _AGAIN_MS, _RECEIPT_MS = 25.0, 1.0, 0.3


def evidence(effort: Effort) -> Iterator[Comparison]:
    """Milliseconds of CPU time, against the most that each may take."""
    yield _against_most("a receipt built, signed and sealed", _RECEIPT_MS, _make_receipt(), effort)
    folder = _vectors()
    if folder is None:
        progress("complete proofs: left out, since SOTTO_VECTORS names no folder with evidence")
        return
    disclosure, policy = _disclosed(folder)

    def stranger() -> object:
        issued.cache_clear()  # a stranger's process has met no vendor's certificate yet
        return verify_disclosure(disclosure, policy, _AT, cache=EvidenceCache())

    first = _against_most("a complete disclosure, TDX and H100", _FIRST_MS, stranger, effort)
    cache = EvidenceCache()
    verify_disclosure(disclosure, policy, _AT, cache=cache)
    again = _against_most(
        "the same, its evidence verified before",
        _AGAIN_MS,
        lambda: verify_disclosure(disclosure, policy, _AT, cache=cache),
        effort,
    )
    yield first
    yield again


def _against_most(
    name: str, most_ms: float, work: Callable[[], object], effort: Effort
) -> Comparison:
    progress(name)
    calls = max(1, round(effort.slice_s / cpu_per_call(work, 5)))
    rounds = tuple((cpu_per_call(work, calls) * 1e3, most_ms) for _ in range(effort.rounds))
    return Comparison(name, f"at most {most_ms:g} ms", "ms", rounds)


def _make_receipt() -> Callable[[], object]:
    key, keys = Ed25519PrivateKey.generate(), ThreadKeys(os.urandom(32))

    def work() -> object:
        receipt = a_receipt(bytes(32), _AT)
        return seal_receipt(keys, receipt.receipt_id, sign_receipt(receipt, key), os.urandom(12))

    return work


def _vectors() -> Path | None:
    here = Path(__file__).parents[1].parent / "shared" / "vectors"
    folder = Path(os.environ.get("SOTTO_VECTORS", here)) / "attestation"
    return folder if folder.is_dir() else None


def _disclosed(folder: Path) -> tuple[bytes, Policy]:
    """A disclosure around the real evidence, and a policy that believes its log."""
    quote = (folder / "tdx" / "tdx_quote").read_bytes()
    collateral = (folder / "tdx" / "tdx_quote_collateral.json").read_text("utf-8")
    gpu = nvidia.parse_nvidia_json((folder / "nvidia" / "hopper_evidence.json").read_bytes())
    key = Ed25519PrivateKey.generate()
    cpu = tdx.encode_evidence(quote, collateral)
    claims = Claims(
        key_configs=(GatewayKey.generate(1, os.urandom(32)).config.encode(),),
        receipt_key=raw_public(key),
        measurements=(("mrtd", bytes(48)),),
        release=bytes(32),
        model_manifest=bytes(32),
        engine="scripted",
        model="script",
        not_before=_AT,
        not_after=_AT + 3600,
        epoch=0,
    )
    bundle = Bundle(claims.encode(), tdx.KIND, cpu, gpu)
    signed, encoded = sign_receipt(a_receipt(bundle.digest, _AT), key), bundle.encode()
    log = Signer("bench.example/log", Ed25519PrivateKey.generate())
    receipt_proof, bundle_proof = prove(log, receipt_entry(signed), bundle_entry(encoded))
    disclosure = encode_disclosure(Disclosure(signed, receipt_proof, b"", encoded, bundle_proof))
    return disclosure, Policy.strict().trusting_logs([log.verifier])
