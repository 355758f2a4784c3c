"""Bundles, receipts and disclosures: what passes, and each reason for which one does not."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proofs_support import (
    LATER_S,
    LOG,
    MEASUREMENTS,
    NOW,
    RECEIPT_KEY,
    ROOT,
    WITNESSES,
    Story,
    claims,
    full_story,
    platform,
    policy,
    private_key,
    prove,
    prove_cose,
    receipt,
    story,
)

from proofs import cbor, verify
from proofs.bundle import Bundle, bundle_entry, decode_bundle, make_bundle
from proofs.cosignature import Cosigner
from proofs.disclosure import Disclosure, encode_disclosure
from proofs.ed25519 import raw_public
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence.base import gpu_nonce, report_data
from proofs.evidence.simulated import GPU_LABEL, SimulatedPlatform
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import receipt_entry, sign_receipt
from proofs.steps import Check
from proofs.times import moment
from proofs.verdict import Status, Subject
from proofs.verify import (
    AttestedEnclave,
    EvidenceCache,
    verify_bundle,
    verify_disclosure,
    verify_evidence,
    verify_published,
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
    # The simulated GPU shares root and mode with its CPU.
    assert set(found) <= {subject, Subject.GPU}


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
        assert f"valid from {moment(NOW)} to " in failing(told, at=at)[Subject.FRESHNESS]


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
    assert statuses.pop(Subject.ORIGIN) is Status.FAILS
    assert statuses.pop(Subject.INCLUSION) is Status.HOLDS
    assert set(statuses.values()) == {Status.NOT_CHECKED}


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
    data = encode_disclosure(
        Disclosure(told.receipt, told.bundle_proof, b"", told.bundle, told.receipt_proof)
    )
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


def _codes(told: Story, use: Policy | None = None, at: int = LATER) -> dict[Subject, set[str]]:
    """Why a disclosure does not hold, by subject; empty where it holds."""
    report = verify_disclosure(told.disclosure(), use or told.policy, at)
    failed = {v.name: set(v.codes) for v in report.verdicts if v.status is Status.FAILS}
    assert report.holds == (not failed)
    in_steps = {code for step in report.steps for code in step.codes}
    assert in_steps == {code for codes in failed.values() for code in codes}
    return failed


def test_full_disclosure_holds_in_numbered_steps() -> None:
    """With witnesses, COSE Receipt, later epoch and words, each step says what it means."""
    told = full_story()
    report = verify_disclosure(told.disclosure(), told.policy, LATER)
    assert report.holds
    assert [step.number for step in report.steps] == list(range(1, 22))
    assert all(step.title and step.meaning and step.detail for step in report.steps)
    assert {step.status for step in report.steps if step.number != 11} == {Status.HOLDS}
    shown = json.loads(json.dumps(report.to_json()))
    assert [step["number"] for step in shown["steps"]] == list(range(1, 22))
    by_name = {v.name: v for v in report.verdicts}
    assert "before and after" in by_name[Subject.FRESHNESS].proves
    assert "2 or more witnesses" in by_name[Subject.INCLUSION].proves
    alone = verify_disclosure(story().disclosure(), policy(), LATER)
    by_name = {v.name: v for v in alone.verdicts}
    assert "before and after" not in by_name[Subject.FRESHNESS].proves
    assert "its operator alone" in by_name[Subject.INCLUSION].does_not_prove


def test_steps_are_numbered_as_in_the_text() -> None:
    """What the module's text numbers is what reports number."""
    numbered = re.findall(r"^ ?\((\d+)\) (\w+):", verify.__doc__ or "", re.MULTILINE)
    assert [(int(n), name.lower()) for n, name in numbered] == [
        (check.number, str(check.subject)) for check in Check
    ]


def test_what_was_said_is_what_was_committed_to() -> None:
    """A word or a salt that differs fails integrity, each of the two by its own code."""
    for field, code in (
        ("request", "said_request"),
        ("request_salt", "said_request"),
        ("response", "said_response"),
        ("response_salt", "said_response"),
    ):
        told = full_story()
        assert told.said is not None
        value = getattr(told.said, field)
        other = value + "." if isinstance(value, str) else value[:-1] + bytes([value[-1] ^ 1])
        told.said = dataclasses.replace(told.said, **{field: other})
        assert _codes(told) == {Subject.INTEGRITY: {code}}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"enclave": b"x" * 32}, "receipt_other_bundle"),
        ({"release": b"x" * 32}, "receipt_other_release"),
        ({"model_manifest": b"x" * 32}, "receipt_other_release"),
        ({"epoch": 5}, "receipt_other_epoch"),
        ({"key_config_id": 9}, "receipt_other_key"),
    ],
)
def test_receipts_that_do_not_fit_their_bundle(changes: dict[str, object], code: str) -> None:
    """Each thing that a receipt repeats of its enclave must be the same there."""
    told = story()
    signed = sign_receipt(
        receipt(**{"enclave": decode_bundle(told.bundle).digest, **changes}), RECEIPT_KEY
    )
    told.receipt, told.entries = signed, [*told.entries, receipt_entry(signed)]
    assert _codes(told) == {Subject.INTEGRITY: {code}}


def test_split_view_fails_without_the_witnesses() -> None:
    """A log that shows somebody a tree of his own has no cosignatures for it."""
    told = full_story()
    told.witnesses = ()
    assert _codes(told) == {
        Subject.INCLUSION: {"too_few_witnesses"},
        Subject.FRESHNESS: {"later_too_few_witnesses"},
    }
    # One that is fooled, or bought, is not two; nor are strangers, nor one that signs twice.
    for signers in (
        WITNESSES[:1],
        tuple(Cosigner(f"witness.example/{n}", private_key(40 + n)) for n in range(3)),
        (WITNESSES[0], WITNESSES[0]),
    ):
        told.witnesses = signers
        assert Subject.INCLUSION in _codes(told)
    with pytest.raises(RefusedError, match="wants 2"):
        verify_settled(told.receipt, told.receipt_proof, told.policy)
    told.witnesses = WITNESSES[1:]
    assert _codes(told) == {}
    assert verify_settled(told.receipt, told.receipt_proof, told.policy).origin == LOG.name
    # A bundle is believed by the same rule, before anything is sealed to its keys.
    told.witnesses = WITNESSES[:1]
    assert "too_few" not in failing(told)
    with pytest.raises(RefusedError) as refused:
        verify_bundle(told.bundle, told.bundle_proof, told.policy, NOW + 60)
    codes = {code for v in refused.value.verdicts for code in v.codes}
    assert codes == {"too_few_witnesses"}


def test_two_keys_of_one_witness_are_one_witness() -> None:
    """A witness that changes its key, or has one of each type, does not vouch for itself."""
    old, new = (Cosigner("witness.example/1", private_key(n)) for n in (21, 31))
    use = policy(witnesses=tuple(one.verifier for one in (old, new, WITNESSES[1])), min_witnesses=2)
    told = story()
    told.witnesses = (old, new)
    assert _codes(told, use) == {Subject.INCLUSION: {"too_few_witnesses"}}
    told.witnesses = (new, WITNESSES[1])
    assert _codes(told, use) == {}


def test_false_cosignature_is_refused() -> None:
    """A line in a pinned witness's name that it did not make is no oversight."""
    told = full_story()
    parts = told.parts()
    lines = parts.receipt_proof.splitlines(keepends=True)
    other = prove(receipt_entry(told.receipt), told.entries[:-1], witnesses=WITNESSES)
    lines[-1] = other.splitlines(keepends=True)[-1]
    data = encode_disclosure(dataclasses.replace(parts, receipt_proof="".join(lines)))
    report = verify_disclosure(data, told.policy, LATER)
    assert report.verdicts[2].codes == ("receipt_not_logged",)
    assert "false" in report.verdicts[2].detail


def test_cose_receipts() -> None:
    """One that is there must hold and be of the same log; one that is required must be there."""
    told = full_story()
    parts = told.parts()

    def codes(cose: bytes, use: Policy) -> set[str]:
        data = encode_disclosure(dataclasses.replace(parts, cose_receipt=cose))
        report = verify_disclosure(data, use, LATER)
        assert set(report.verdicts[2].codes) == {c for s in report.steps for c in s.codes}
        return set(report.verdicts[2].codes)

    easy = told.policy.model_copy(update={"require_cose": False})
    assert codes(b"", told.policy) == {"cose_missing"}
    assert codes(b"", easy) == set()
    assert codes(prove_cose(told.entries[0], told.entries), easy) == {"cose_refused"}
    entry = receipt_entry(told.receipt)
    other = Signer("log.example/other", private_key(8))
    assert codes(prove_cose(entry, [entry], other), easy) == {"cose_refused"}
    assert codes(prove_cose(entry, [entry], other), easy.trusting_logs([other.verifier])) == {
        "cose_other_log"
    }
    # The same size and another root: two signatures of the log that contradict each other.
    forked = [b"forked", *told.entries[1:]]
    assert codes(prove_cose(entry, forked), easy) == {"log_forked"}
    with pytest.raises(UnreadableError):
        codes(b"\xd2\x84", easy)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"receipt_key": b"k" * 32}, "later_other_keys"),
        ({"key_configs": (b"\x07config-one",)}, "later_other_keys"),
        ({"epoch": 4}, "later_other_epoch"),
        ({"not_before": NOW + 59}, "later_too_early"),
        ({"measurements": (("vm.image", b"\x09"),)}, "later_measurements_differ"),
    ],
)
def test_later_epochs_that_do_not_continue(changes: dict[str, object], code: str) -> None:
    """The bundle after the turn must be of the same keys, the next one, and hold by itself."""
    following = {"not_before": NOW + LATER_S, "epoch": 5, **changes}
    told = full_story(later_claims=claims(**following))
    assert _codes(told) == {Subject.FRESHNESS: {code}}


def test_later_epoch_that_began_during_the_turn() -> None:
    """It proves nothing of the time after the turn, and fails only where that is required."""
    told = full_story(later_claims=claims(epoch=5, not_before=NOW))
    assert _codes(told) == {Subject.FRESHNESS: {"later_too_early"}}
    easy = told.policy.model_copy(update={"require_later_epoch": False})
    report = verify_disclosure(told.disclosure(), easy, LATER)
    assert report.holds
    freshness = next(v for v in report.verdicts if v.name is Subject.FRESHNESS)
    assert "60 s before the turn ended" in freshness.detail
    assert "before and after" not in freshness.detail + freshness.proves


def test_any_later_epoch_continues_a_turn() -> None:
    """A turn that ran into the next epoch is completed by the one after it."""
    assert _codes(full_story(later_claims=claims(epoch=6, not_before=NOW + LATER_S))) == {}


def test_later_epoch_must_be_there_hold_and_be_past() -> None:
    """It is required where the policy says so, judged where it is there, and cannot be to come."""
    told = full_story()
    assert _codes(told, at=NOW + 100) == {Subject.FRESHNESS: {"later_from_future"}}
    told.later = None
    assert _codes(told) == {Subject.FRESHNESS: {"later_missing"}}
    easy = told.policy.model_copy(update={"require_later_epoch": False})
    assert _codes(told, easy) == {}
    told = full_story(later_platform=_platform_of(private_key(5)))
    found = _codes(told, easy)
    assert set(found) == {Subject.FRESHNESS}
    assert "later_cpu_root" in found[Subject.FRESHNESS]
    told = full_story()
    parts = told.parts()
    assert parts.later is not None
    unproven = dataclasses.replace(parts.later, proof=parts.bundle_proof)
    data = encode_disclosure(dataclasses.replace(parts, later=unproven))
    report = verify_disclosure(data, told.policy, LATER)
    assert report.verdicts[3].codes == ("later_bundle_not_logged",)


def test_evidence_alone() -> None:
    """A report without claims says where it comes from, and nothing of keys or time."""
    told = decode_bundle(story().bundle)
    report = verify_evidence("simulated", told.cpu, policy(), NOW)
    by_name = {v.name: v.status for v in report.verdicts}
    assert report.holds
    assert by_name[Subject.ORIGIN] is by_name[Subject.TCB] is Status.HOLDS
    assert {by_name[s] for s in (Subject.INTEGRITY, Subject.INCLUSION, Subject.FRESHNESS)} == {
        Status.NOT_CHECKED
    }
    assert not verify_evidence("simulated", told.cpu, Policy.strict(), NOW).holds
    bound = report_data(claims(), told.gpu)
    report = verify_evidence("simulated", told.cpu, policy(), NOW, report_data=bound)
    by_name = {v.name: v.status for v in report.verdicts}
    assert by_name[Subject.INTEGRITY] is by_name[Subject.FRESHNESS] is Status.HOLDS
    report = verify_evidence("simulated", told.cpu, policy(), NOW, report_data=bytes(64))
    assert not report.holds
    assert report.to_json()["kind"] == "simulated"

    report = verify_evidence(GPU_LABEL, told.gpu, policy(), NOW, nonce=gpu_nonce(claims()))
    assert report.holds
    assert json.loads(json.dumps(report.to_json()))["evidence"]["devices"]
    report = verify_evidence(GPU_LABEL, told.gpu, policy(), NOW, nonce=bytes(32))
    assert {c for v in report.verdicts for c in v.codes} == {"gpu_nonce"}
    assert not verify_evidence(GPU_LABEL, told.gpu, Policy.strict(), NOW).holds
    for kind, data in (("tpm", told.cpu), ("simulated", told.gpu), (GPU_LABEL, told.cpu)):
        with pytest.raises(UnreadableError):
            verify_evidence(kind, data, policy(), NOW)


def test_checkpoint_alone() -> None:
    """A published checkpoint holds by the log's key and as many witnesses as the policy wants."""
    told = full_story()
    note = told.receipt_proof.split("\n\n", 1)[1]
    report = verify_published(note, told.policy, LATER)
    assert report.holds
    assert report.checkpoint.size == len(told.entries)
    assert [step.number for step in report.steps] == [22, 23]
    told.witnesses = ()
    bare = told.receipt_proof.split("\n\n", 1)[1]
    report = verify_published(bare, told.policy, LATER)
    assert not report.holds
    assert report.verdicts[2].codes == ("too_few_witnesses",)
    assert verify_published(bare, policy(), LATER).holds
    assert verify_published(bare, Policy.strict(), LATER).verdicts[2].codes == (
        "checkpoint_refused",
    )
    with pytest.raises(UnreadableError):
        verify_published("nothing\n", policy(), LATER)


def test_flipped_bits_of_a_full_disclosure_are_noticed() -> None:
    """Whichever part is changed by whoever makes the checksum fit: refused or unreadable."""
    told = full_story(min_witnesses=len(WITNESSES))
    data = bytearray(told.disclosure()[:-32])
    cache = EvidenceCache()

    def holds() -> bool:
        forged = bytes(data) + hashlib.sha256(data).digest()
        try:
            return verify_disclosure(forged, told.policy, LATER, cache=cache).holds
        except UnreadableError:
            return False

    assert holds()
    for place in range(0, len(data), 5):
        data[place] ^= 1 << place // 5 % 8
        assert not holds(), place
        data[place] ^= 1 << place // 5 % 8


def test_full_disclosure_cut_anywhere_is_unreadable() -> None:
    """No prefix of a file says anything, whatever parts it has."""
    data = full_story().disclosure()
    for end in range(0, len(data), 41):
        with pytest.raises(UnreadableError):
            verify_disclosure(data[:end], policy(), LATER)
