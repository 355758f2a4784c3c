"""Bundles, receipts and disclosures: what passes, and each reason for which one does not."""

import dataclasses
import hashlib
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proofs_support import (
    LOG,
    MEASUREMENTS,
    NOW,
    RECEIPT_KEY,
    ROOT,
    Story,
    claims,
    platform,
    policy,
    private_key,
    prove,
    receipt,
    story,
)

from proofs import cbor
from proofs.bundle import Bundle, bundle_entry, decode_bundle, make_bundle
from proofs.disclosure import encode_disclosure
from proofs.ed25519 import raw_public
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence.simulated import SimulatedPlatform
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import receipt_entry, sign_receipt
from proofs.verdict import Status, Subject
from proofs.verify import (
    AttestedEnclave,
    verify_bundle,
    verify_disclosure,
    verify_receipt,
    verify_settled,
)

LATER = NOW + 30 * 86400


def failing(told: Story, use: Policy | None = None, at: int = NOW + 60) -> dict[Subject, str]:
    """The verdicts that do not hold, custody aside, when a device meets the bundle."""
    with pytest.raises(RefusedError) as refused:
        verify_bundle(told.bundle, told.bundle_proof, use or told.policy, at)
    verdicts = refused.value.verdicts
    assert [v.name for v in verdicts] == list(Subject)
    return {v.name: v.detail for v in verdicts if v.status is Status.FAILS}


def test_good_bundle_is_attested() -> None:
    """A device learns the enclave's keys, and that no hardware stands behind them."""
    told = story()
    enclave = verify_bundle(told.bundle, told.bundle_proof, told.policy, NOW + 60)
    assert enclave.enclave_id == hashlib.sha256(told.bundle).hexdigest()
    assert enclave.receipt_key == raw_public(RECEIPT_KEY)
    assert enclave.key_configs == claims().key_configs
    assert enclave.simulated
    by_name = {v.name: v for v in enclave.verdicts}
    assert "SIMULATED" in by_name[Subject.ORIGIN].does_not_prove
    assert by_name[Subject.CUSTODY].status is Status.NOT_CHECKED


def test_attested_enclave_has_no_other_source() -> None:
    """Nobody can make a trusted enclave by hand, nor change one."""
    told = story()
    enclave = verify_bundle(told.bundle, told.bundle_proof, told.policy, NOW + 60)
    with pytest.raises(TypeError):
        AttestedEnclave()
    with pytest.raises(TypeError):
        dataclasses.replace(enclave, enclave_id="another")
    with pytest.raises(dataclasses.FrozenInstanceError):
        enclave.enclave_id = "another"  # type: ignore[misc]


def test_default_policy_refuses_simulated_evidence() -> None:
    """Who names no policy trusts no simulation and no log."""
    found = failing(story(), Policy.strict())
    assert "does not accept simulated" in found[Subject.ORIGIN]
    assert Subject.INCLUSION in found


def test_allowing_simulated_in_the_open() -> None:
    """The first run's switch and the log's key are all that the default policy lacks."""
    told = story()
    relaxed = Policy.strict().allowing_simulated().trusting_logs([LOG.verifier])
    assert verify_bundle(told.bundle, told.bundle_proof, relaxed, NOW + 60).simulated


def _platform_of(root: Ed25519PrivateKey) -> SimulatedPlatform:
    return SimulatedPlatform.create(root, b"s" * 32, measurements=MEASUREMENTS)


@pytest.mark.parametrize(
    ("tell", "subject", "reason"),
    [
        (lambda: story(the_platform=_platform_of(private_key(5))), Subject.ORIGIN, "not pin"),
        (
            lambda: story(the_platform=platform(measurements=(("vm.image", b"\x09" * 48),))),
            Subject.ORIGIN,
            "other software",
        ),
        (
            lambda: story(
                claims(measurements=(("vm.image", b"\x09"),)),
                platform(measurements=(("vm.image", b"\x09"),)),
            ),
            Subject.ORIGIN,
            "allows no software",
        ),
        (lambda: story(the_platform=platform(debug=True)), Subject.ORIGIN, "debug"),
    ],
)
def test_evidence_of_the_wrong_platform_is_refused(
    tell: Callable[[], Story], subject: Subject, reason: str
) -> None:
    """Each fault of the platform is told apart from the others, and only its verdict fails."""
    found = failing(tell())
    assert reason in found[subject]
    assert set(found) == {subject}


def test_tcb_floor_and_advisories() -> None:
    """A platform below the floor or under a refused advisory is named as such."""
    told = story(the_platform=platform(tcb=3, advisories=("SIM-SA-1", "SIM-SA-2")))
    assert "below the floor of 4" in failing(told, policy(min_tcb=4))[Subject.TCB]
    assert "SIM-SA-2" in failing(told, policy(refused_advisories=("SIM-SA-2",)))[Subject.TCB]
    use = policy(min_tcb=3, refused_advisories=("SIM-SA-3",))
    assert verify_bundle(told.bundle, told.bundle_proof, use, NOW + 60)


def test_custody_is_told_by_the_policy_alone() -> None:
    """A machine on the list passes, one that is not fails, and no list is no claim."""
    told = story()
    machine = _platform_id(told)
    listed = policy(custody={"kind": "third-party", "platforms": (machine,)})
    enclave = verify_bundle(told.bundle, told.bundle_proof, listed, NOW + 60)
    assert {v.name: v.status for v in enclave.verdicts}[Subject.CUSTODY] is Status.HOLDS
    other = policy(custody={"kind": "operator-asserted", "platforms": (b"x" * 32,)})
    assert machine.hex() in failing(told, other)[Subject.CUSTODY]


def _platform_id(told: Story) -> bytes:
    certificate = cbor.decode(decode_bundle(told.bundle).cpu, what="report", limit=1 << 20)[1]
    key = cbor.decode(certificate, what="certificate", limit=1 << 20)[2]
    return hashlib.sha256(key).digest()


@pytest.mark.parametrize(
    ("at", "holds"),
    [
        (NOW - 121, False),
        (NOW - 120, True),
        (NOW, True),
        (NOW + 3600, True),
        (NOW + 3601, False),
    ],
)
def test_validity_of_the_keys(at: int, holds: bool) -> None:
    """Keys are used between their first and last second, and by clocks two minutes slow."""
    told = story()
    if holds:
        assert verify_bundle(told.bundle, told.bundle_proof, told.policy, at)
    else:
        assert "valid from" in failing(told, at=at)[Subject.FRESHNESS]


def test_old_evidence_is_refused() -> None:
    """Evidence older than the policy's limit does not pass within valid keys."""
    assert "600" in failing(story(), policy(max_age_s=600), NOW + 601)[Subject.FRESHNESS]


def _mixed(cpu: Bundle, gpu: Bundle) -> Story:
    bundle = dataclasses.replace(cpu, gpu=gpu.gpu).encode()
    entries = [bundle_entry(bundle)]
    return Story(bundle, b"", policy(), entries)


def test_halves_of_two_enclaves_do_not_fit() -> None:
    """GPU evidence from beside another enclave's keys fails both ways of the binding."""
    one = make_bundle(claims(), platform(), NOW)
    two = make_bundle(claims(receipt_key=b"k" * 32), platform(), NOW)
    found = failing(_mixed(one, two))
    assert "other GPU evidence" in found[Subject.INTEGRITY]
    assert "other keys" in found[Subject.GPU]


def test_halves_of_two_roots_do_not_fit() -> None:
    """A GPU of another root fails its own verdict even where its nonce is right."""
    one = make_bundle(claims(), platform(), NOW)
    two = make_bundle(claims(), _platform_of(private_key(5)), NOW)
    assert "another root" in failing(_mixed(one, two))[Subject.GPU]


def test_claims_with_the_attackers_keys_do_not_fit() -> None:
    """Claims that were exchanged after the CPU signed fail integrity and GPU."""
    bundle = make_bundle(claims(), platform(), NOW)
    forged = claims(key_configs=(b"\x07attacker",)).encode()
    told = Story(b"", b"", policy())
    told.bundle = dataclasses.replace(bundle, claims=forged).encode()
    told.entries = [bundle_entry(told.bundle)]
    found = failing(told)
    assert "other claims" in found[Subject.INTEGRITY]
    assert "other keys" in found[Subject.GPU]


def test_unknown_kind_of_evidence_is_refused_with_verdicts() -> None:
    """Evidence that this version cannot judge fails origin; the rest stays unchecked."""
    bundle = dataclasses.replace(make_bundle(claims(), platform(), NOW), kind="tpm").encode()
    with pytest.raises(RefusedError) as refused:
        verify_bundle(bundle, prove(bundle_entry(bundle), [bundle_entry(bundle)]), policy(), NOW)
    statuses = {v.name: v.status for v in refused.value.verdicts}
    assert statuses[Subject.ORIGIN] is Status.FAILS
    assert statuses[Subject.GPU] is Status.NOT_CHECKED


def test_inclusion_is_required_unless_the_policy_says_otherwise() -> None:
    """No proof, a proof of something else, or of a log that is not pinned: none passes."""
    told = story()
    stranger = Signer("log.example/other", private_key(8))
    entries = [bundle_entry(told.bundle)]
    for proof in (None, told.receipt_proof, prove(entries[0], entries, stranger)):
        with pytest.raises(RefusedError) as refused:
            verify_bundle(told.bundle, proof, told.policy, NOW + 60)
        failed = [v.name for v in refused.value.verdicts if v.status is Status.FAILS]
        assert failed == [Subject.INCLUSION]
    enclave = verify_bundle(told.bundle, None, policy(require_inclusion=False), NOW + 60)
    assert {v.name: v.status for v in enclave.verdicts}[Subject.INCLUSION] is Status.NOT_CHECKED
    # A proof that is there is judged, required or not.
    with pytest.raises(RefusedError):
        verify_bundle(told.bundle, told.receipt_proof, policy(require_inclusion=False), NOW + 60)


def test_bundle_cut_anywhere_or_with_a_tail_is_unreadable() -> None:
    """No prefix of a bundle, and nothing longer, reads as a bundle."""
    told = story()
    for end in range(len(told.bundle)):
        with pytest.raises(UnreadableError):
            decode_bundle(told.bundle[:end])
    with pytest.raises(UnreadableError):
        decode_bundle(told.bundle + b"\x00")


def test_receipt_on_arrival() -> None:
    """A device accepts the receipt of the enclave that it sealed to, and no other."""
    told = story()
    enclave = verify_bundle(told.bundle, told.bundle_proof, told.policy, NOW + 60)
    assert verify_receipt(told.receipt, enclave).turn_index == 0
    digest = bytes.fromhex(enclave.enclave_id)
    for forged in (
        sign_receipt(receipt(digest), private_key(6)),
        sign_receipt(receipt(b"x" * 32), RECEIPT_KEY),
        sign_receipt(receipt(digest, release=b"x" * 32), RECEIPT_KEY),
        sign_receipt(receipt(digest, model_manifest=b"x" * 32), RECEIPT_KEY),
    ):
        with pytest.raises(RefusedError):
            verify_receipt(forged, enclave)


def test_settlement_on_arrival() -> None:
    """A settled receipt's proof is of that receipt, in a log that the policy believes."""
    told = story()
    assert verify_settled(told.receipt, told.receipt_proof, told.policy).origin == LOG.name
    with pytest.raises(RefusedError):
        verify_settled(told.receipt, told.bundle_proof, told.policy)
    with pytest.raises(RefusedError):
        verify_settled(told.receipt, told.receipt_proof, Policy.strict())


def test_disclosure_verifies_alone_years_later() -> None:
    """A stranger with the file, a policy and a date gets seven verdicts, and no single tick."""
    told = story()
    report = verify_disclosure(told.disclosure(), told.policy, LATER)
    assert report.holds
    assert report.simulated
    assert [v.name for v in report.verdicts] == list(Subject)
    shown = json.loads(json.dumps(report.to_json()))
    assert shown["receipt"]["outcome"] == "completed"
    assert shown["receipt"]["head_before"] is None
    assert shown["receipt"]["persona"] == (b"p" * 32).hex()
    assert shown["model"] == "a model"
    assert all(v["does_not_prove"] for v in shown["verdicts"])


def _failed(told: Story, at: int = LATER, use: Policy | None = None) -> dict[Subject, str]:
    report = verify_disclosure(told.disclosure(), use or told.policy, at)
    assert not report.holds
    return {v.name: v.detail for v in report.verdicts if v.status is Status.FAILS}


def test_disclosure_is_judged_by_its_own_time() -> None:
    """A receipt from outside of its keys' life, or from the future, is not fresh."""
    assert Subject.FRESHNESS in _failed(story(time=NOW + 3601))
    assert Subject.FRESHNESS in _failed(story(time=NOW - 121))
    found = _failed(story(), at=NOW + 59)
    assert "after the time of this verdict" in found[Subject.FRESHNESS]
    assert verify_disclosure(story().disclosure(), policy(), NOW + 60).holds


def test_disclosure_of_a_forged_receipt() -> None:
    """Somebody else's signature fails integrity and leaves the other verdicts as they are."""
    assert set(_failed(story(key=private_key(6)))) == {Subject.INTEGRITY}
    assert set(_failed(story(release=b"x" * 32))) == {Subject.INTEGRITY}


def test_disclosure_under_the_default_policy() -> None:
    """Simulated evidence does not hold for a stranger who did not ask for it."""
    found = _failed(story(), use=Policy.strict())
    assert Subject.ORIGIN in found


def test_disclosure_with_exchanged_proofs() -> None:
    """The bundle's proof does not stand in for the receipt's, nor the other way round."""
    told = story()
    data = encode_disclosure(told.receipt, told.bundle_proof, told.bundle, told.receipt_proof)
    report = verify_disclosure(data, told.policy, LATER)
    assert not report.holds
    assert report.verdicts[2].status is Status.FAILS


def _passes(data: bytes, use: Policy) -> bool:
    try:
        return verify_disclosure(data, use, LATER).holds
    except UnreadableError:
        return False


def test_every_flipped_bit_is_noticed() -> None:
    """A disclosure with any one bit changed never passes."""
    told = story()
    data = bytearray(told.disclosure())
    assert _passes(bytes(data), told.policy)
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            assert not _passes(bytes(data), told.policy), (place, bit)
            data[place] ^= 1 << bit


def test_flipped_bits_are_noticed_when_the_checksum_is_made_to_fit() -> None:
    """Signatures, not the checksum, are what an attacker would have to forge."""
    told = story()
    data = bytearray(told.disclosure()[:-32])
    # Every byte in one bit, and every bit where one part ends and the next begins.
    seams = set(range(48))
    for part in (
        told.receipt,
        told.receipt_proof.encode(),
        told.bundle,
        told.bundle_proof.encode(),
    ):
        start = bytes(data).index(part)
        for end in (start, start + len(part)):
            seams |= set(range(end - 8, min(end + 8, len(data))))
    for place in range(len(data)):
        for bit in range(8) if place in seams else (place % 8,):
            data[place] ^= 1 << bit
            forged = bytes(data) + hashlib.sha256(data).digest()
            assert not _passes(forged, told.policy), (place, bit)
            data[place] ^= 1 << bit


def test_disclosure_cut_anywhere_or_with_a_tail_is_unreadable() -> None:
    """No prefix of a disclosure, and nothing longer, says anything."""
    told = story()
    data = told.disclosure()
    for end in range(0, len(data), 7):
        with pytest.raises(UnreadableError):
            verify_disclosure(data[:end], told.policy, LATER)
    with pytest.raises(UnreadableError):
        verify_disclosure(data + b"\x00", told.policy, LATER)
    with pytest.raises(UnreadableError):
        verify_disclosure(bytes(1 << 22), told.policy, LATER)


def test_two_policies_pin_two_roots() -> None:
    """Pinning a root besides another lets both machines pass and no third."""
    told = story(the_platform=_platform_of(private_key(5)))
    both = policy().allowing_simulated([raw_public(private_key(5))])
    assert verify_bundle(told.bundle, told.bundle_proof, both, NOW + 60)
    assert raw_public(ROOT) in both.simulated_roots
    third = story(the_platform=_platform_of(private_key(4)))
    assert Subject.ORIGIN in failing(third, both)


def test_entries_of_receipts_and_bundles_never_meet() -> None:
    """The same bytes are another log entry as a bundle than as a receipt."""
    assert bundle_entry(b"same") != receipt_entry(b"same")
