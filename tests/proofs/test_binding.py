"""Claims, CPU and GPU evidence are bound: each way to put something else in has its own refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from attestation_files import attestation
from cpu_machines import MachinePlatform, SnpMachine, TdxMachine
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_machine import VBIOS, GpuMachine
from proofs_support import (
    LATER_S,
    NOW,
    RECEIPT_KEY,
    WITNESSES,
    Story,
    claims,
    full_story,
    platform,
    policy,
    private_key,
    receipt,
    story,
)
from tdx_machine import RECOVERED, seconds

from proofs.bundle import Bundle, bundle_entry, decode_bundle, make_bundle
from proofs.claims import Claims
from proofs.ed25519 import raw_public
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence import nvidia, snp, tdx
from proofs.evidence.base import Collateral, Platform, gpu_nonce
from proofs.note import Signer
from proofs.policy import Policy
from proofs.receipt import receipt_entry, sign_receipt
from proofs.release import MeasurementSet, Release, open_release, sign_release
from proofs.verdict import Status, Subject
from proofs.verify import (
    EvidenceCache,
    judge_bundle,
    verify_bundle,
    verify_disclosure,
    verify_evidence,
)

DAY, HOUR = 86400, 3600
Machine = TdxMachine | SnpMachine


@cache
def gpus(count: int = 1) -> GpuMachine:
    """A machine with GPUs."""
    return GpuMachine.create(count)


@cache
def gpu_evidence(nonce: bytes, at: int) -> bytes:
    """Its evidence; RIMs take a moment to sign."""
    return gpus().evidence(nonce, at)


MACHINES: dict[str, Callable[[], Machine]] = {
    "tdx-v4": TdxMachine.create,
    "tdx-v5": lambda: TdxMachine.create(version=5),
    "snp-genoa": SnpMachine.create,
    "snp-genoa-vlek": lambda: SnpMachine.create("Genoa", "vlek"),
    "snp-turin": lambda: SnpMachine.create("Turin"),
}
ONE_OF_EACH = ("tdx-v4", "snp-genoa")


def use(machine: Machine, gpu: dict[str, object] | None = None, **changes: object) -> Policy:
    """A policy that pins that machine's root and software, and the GPUs' roots."""
    both = {
        "roots": (gpus().root,),
        "rim_roots": (gpus().rim_root,),
        "required": True,
        **(gpu or {}),
    }
    of_kind: dict[str, object] = {"roots": (machine.root,)}
    of_kind.update(changes.pop(machine.kind, {}))  # type: ignore[call-overload]
    return policy(
        **{
            "allow_simulated": False,
            "measurements": (dict(machine.measurements),),
            machine.kind: of_kind,
            "gpu": both,
            **changes,
        }
    )


def of(machine: Machine, **changes: object) -> Claims:
    """Claims of an enclave on that machine."""
    return claims(measurements=machine.measurements, **changes)


def with_gpu(machine: Machine, **knobs: object) -> MachinePlatform:
    """The machine beside the GPUs."""
    return MachinePlatform(machine, gpu_evidence, knobs)


def codes(bundle: Bundle, accept: Policy, at: int = NOW + 60, **options: object) -> set[str]:
    """Why a bundle is refused; empty where it holds."""
    encoded = bundle.encode()
    told = Story(encoded, b"", accept, [bundle_entry(encoded)])
    report = judge_bundle(encoded, told.bundle_proof, accept, at, **options)  # type: ignore[arg-type]
    found = {code for step in report.steps for code in step.codes}
    assert report.holds == (not found)
    if found:
        with pytest.raises(RefusedError):
            verify_bundle(encoded, told.bundle_proof, accept, at, **options)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_honest_bundles_hold(name: str) -> None:
    """Claims, CPU and GPU of one machine hold under a policy that pins their roots."""
    machine = MACHINES[name]()
    bundle = make_bundle(of(machine), with_gpu(machine), NOW)
    assert codes(bundle, use(machine)) == set()
    # Whoever pins nothing but the vendors' own roots believes none of it.
    vendors = policy(allow_simulated=False, measurements="any")
    assert {"cpu_root", "gpu_root", "gpu_rim_root"} <= codes(bundle, vendors)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_hardware_has_no_clock_of_its_own(name: str) -> None:
    """The age counts from the claims' word, and the verdict says whose word that is."""
    machine = MACHINES[name]()
    bundle = make_bundle(of(machine), with_gpu(machine), NOW).encode()
    report = judge_bundle(
        bundle, Story(bundle, b"", policy(), [bundle_entry(bundle)]).bundle_proof, use(machine), NOW
    )
    assert report.holds
    age = next(step for step in report.steps if step.number == 9)
    assert "the enclave's own clock" in age.detail


Attack = Callable[[Machine], tuple[Bundle, dict[str, object]]]


def _claims_changed(**changes: object) -> Attack:
    def attack(machine: Machine) -> tuple[Bundle, dict[str, object]]:
        bundle = make_bundle(of(machine), with_gpu(machine), NOW)
        return replace(bundle, claims=of(machine, **changes).encode()), {}

    return attack


def _gpu_of(gpu: Callable[[Machine], bytes]) -> Attack:
    """GPU evidence exchanged after the CPU signed."""

    def attack(machine: Machine) -> tuple[Bundle, dict[str, object]]:
        bundle = make_bundle(of(machine), with_gpu(machine), NOW)
        return replace(bundle, gpu=gpu(machine)), {}

    return attack


def _gpu_signed(gpu: Callable[[Machine], bytes]) -> Attack:
    """GPU evidence from elsewhere that a dishonest host hands in before the CPU signs."""

    def attack(machine: Machine) -> tuple[Bundle, dict[str, object]]:
        elsewhere = MachinePlatform(machine, lambda nonce, at: gpu(machine))
        return make_bundle(of(machine), elsewhere, NOW), {}

    return attack


def _simulated_gpu(machine: Machine) -> bytes:
    return platform().collect(of(machine), NOW).gpu


def _real_gpu_beside_simulated_cpu(machine: Machine) -> tuple[Bundle, dict[str, object]]:
    simulated = platform(measurements=machine.measurements)
    bundle = make_bundle(of(machine), simulated, NOW)
    return replace(bundle, gpu=gpu_evidence(gpu_nonce(of(machine)), NOW)), {
        "allow_simulated": True,
        "simulated_roots": (raw_public(private_key(1)),),
    }


def _moved(not_before: int) -> Attack:
    """Claims of another time over evidence that is signed for them."""

    def attack(machine: Machine) -> tuple[Bundle, dict[str, object]]:
        moved = of(machine, not_before=not_before, not_after=not_before + 3600)
        return make_bundle(moved, with_gpu(machine), not_before), {}

    return attack


ATTACKS: dict[str, tuple[Attack, set[str]]] = {
    "other keys": (_claims_changed(key_configs=(b"\x07attacker",)), {"report_data", "gpu_nonce"}),
    "another receipt key": (_claims_changed(receipt_key=b"k" * 32), {"report_data", "gpu_nonce"}),
    "a longer validity": (_claims_changed(not_after=NOW + 7200), {"report_data", "gpu_nonce"}),
    "another model": (_claims_changed(model_manifest=b"x" * 32), {"report_data", "gpu_nonce"}),
    "another release": (_claims_changed(release=b"x" * 32), {"report_data", "gpu_nonce"}),
    "other measurements": (
        lambda machine: (
            make_bundle(claims(), with_gpu(machine), NOW),
            {},
        ),
        {"measurements_differ"},
    ),
    "GPU evidence taken away": (_gpu_of(lambda machine: b""), {"report_data", "gpu_missing"}),
    "no GPU from the start": (
        lambda machine: (make_bundle(of(machine), MachinePlatform(machine), NOW), {}),
        {"gpu_missing"},
    ),
    "GPU evidence of other keys": (
        _gpu_of(lambda machine: gpu_evidence(gpu_nonce(of(machine, receipt_key=b"k" * 32)), NOW)),
        {"report_data", "gpu_nonce"},
    ),
    "the same, handed in by the host": (
        _gpu_signed(lambda machine: gpu_evidence(b"n" * 32, NOW)),
        {"gpu_nonce"},
    ),
    "other GPUs with the right nonce": (
        _gpu_of(lambda machine: GpuMachine.create().evidence(gpu_nonce(of(machine)), NOW)),
        {"report_data", "gpu_root", "gpu_rim_root"},
    ),
    "old GPU evidence": (
        _gpu_signed(lambda machine: gpu_evidence(gpu_nonce(of(machine)), NOW - DAY - 1)),
        {"gpu_evidence_too_old", "gpu_revocation_unknown"},
    ),
    "GPU evidence from the future": (
        _gpu_signed(lambda machine: gpu_evidence(gpu_nonce(of(machine)), NOW + 600)),
        {"gpu_evidence_from_future"},
    ),
    "a simulated GPU beside a real CPU": (_gpu_signed(_simulated_gpu), {"gpu_simulated"}),
    "a simulated CPU beside a real GPU": (
        _real_gpu_beside_simulated_cpu,
        {"report_data", "cpu_simulated"},
    ),
    "yesterday's bundle": (_moved(NOW - 2 * DAY), {"claims_expired", "evidence_too_old"}),
    "tomorrow's bundle": (
        _moved(NOW + DAY),
        {"claims_not_yet_valid", "evidence_from_future", "gpu_evidence_from_future"},
    ),
}
# What time does to a vendor's signatures is no matter of the binding.
_OF_TIME = {"cpu_expired", "cpu_not_yet_valid", "gpu_revocation_unknown", "tcb_status"}
_OF_TIME |= {"gpu_evidence_too_old"}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_each_attack_has_its_own_refusal(name: str, attack: str) -> None:
    """Whatever is put in the place of something else is told by its own code."""
    machine = MACHINES[name]()
    make, expected = ATTACKS[attack]
    bundle, changes = make(machine)
    found = codes(bundle, use(machine, **changes))
    assert expected <= found
    assert found - expected <= (_OF_TIME if attack.endswith("'s bundle") else set())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_evidence_of_another_machine(name: str) -> None:
    """A quote that another machine signed for its own claims is none for these."""
    machine, other = MACHINES[name](), MACHINES[name]()
    one = make_bundle(of(machine), with_gpu(machine), NOW)
    two = make_bundle(of(other, receipt_key=b"k" * 32), with_gpu(other), NOW)
    assert codes(replace(one, cpu=two.cpu), use(machine)) == {"report_data"}
    assert "cpu_root" in codes(one, use(machine, **{machine.kind: {"roots": (b"x" * 32,)}}))


def test_a_quote_of_another_kind_is_unreadable_or_refused() -> None:
    """Evidence under the name of another kind is never judged as that."""
    machine = TdxMachine.create()
    bundle = make_bundle(of(machine), with_gpu(machine), NOW)
    with pytest.raises(UnreadableError):
        codes(replace(bundle, kind="snp"), use(machine))
    assert codes(replace(bundle, kind="tpm"), use(machine)) == {"kind_unknown"}
    assert "kind_refused" in codes(bundle, use(machine, kinds=("snp",)))


@pytest.mark.parametrize(
    ("machine", "knobs", "changes", "expected"),
    [
        (SnpMachine.create, {"debug": True}, {}, {"cpu_debug"}),
        (SnpMachine.create, {"debug": True}, {"allow_debug": True}, set()),
        (SnpMachine.create, {}, {"snp": {"products": ("Turin",)}}, {"cpu_product"}),
        (lambda: SnpMachine.create("Milan"), {}, {}, {"cpu_product"}),
        (lambda: SnpMachine.create("Milan"), {}, {"snp": {"products": ("Milan",)}}, set()),
        (SnpMachine.create, {}, {"snp": {"min_tcb": {"microcode": 213, "snp": 23}}}, set()),
        (SnpMachine.create, {}, {"snp": {"min_tcb": {"microcode": 214}}}, {"tcb_floor"}),
        (SnpMachine.create, {}, {"snp": {"min_tcb": {"fmc": 1}}}, {"tcb_floor"}),
        (SnpMachine.create, {"revoked": True}, {}, {"cpu_revoked"}),
        # No TD in debug mode passes, whatever the policy: nothing about it can be verified.
        (TdxMachine.create, {"debug": True}, {"allow_debug": True}, {"cpu_debug", "tcb_status"}),
        (TdxMachine.create, {}, {"tdx": {"min_tcb": {"module": 262, "pce": 11}}}, set()),
        (TdxMachine.create, {}, {"tdx": {"min_tcb": {"module": 263}}}, {"tcb_floor"}),
        (TdxMachine.create, {"status": "OutOfDate"}, {}, {"tcb_status"}),
        (TdxMachine.create, {"status": "OutOfDate"}, {"tdx": {"statuses": ("OutOfDate",)}}, set()),
        (TdxMachine.create, {"status": "SWHardeningNeeded"}, {}, {"tcb_status"}),
        (TdxMachine.create, {"collateral": None}, {}, {"cpu_collateral", "tcb_status"}),
        (
            TdxMachine.create,
            {"advisories": ("INTEL-SA-00837",)},
            {"refused_advisories": ("INTEL-SA-00837",)},
            {"tcb_advisory"},
        ),
        (TdxMachine.create, {"advisories": ("INTEL-SA-00837",)}, {}, set()),
        (TdxMachine.create, {}, {"models": (b"m" * 32,)}, set()),
        (TdxMachine.create, {}, {"models": (b"x" * 32,)}, {"model_refused"}),
        (TdxMachine.create, {}, {"revoked_releases": (b"r" * 32,)}, {"release_revoked"}),
        (TdxMachine.create, {}, {"measurements": ()}, {"measurements_refused"}),
    ],
)
def test_state_of_the_cpu(
    machine: Callable[[], Machine],
    knobs: dict[str, object],
    changes: dict[str, object],
    expected: set[str],
) -> None:
    """Debug, product, TCB numbers, statuses and advisories are judged as the policy says."""
    made = machine()
    assert codes(make_bundle(of(made), with_gpu(made, **knobs), NOW), use(made, **changes)) == (
        expected
    )


def test_grace_after_a_tcb_recovery() -> None:
    """An out-of-date level passes for as long after the recovery as the policy grants."""
    machine = TdxMachine.create()
    bundle = make_bundle(of(machine), with_gpu(machine, status="OutOfDate"), NOW)
    passed = NOW + 60 - seconds(RECOVERED)
    assert codes(bundle, use(machine, grace_s=passed)) == set()
    assert codes(bundle, use(machine, grace_s=passed - 1)) == {"tcb_status"}


@pytest.mark.parametrize(
    ("knobs", "gpu", "expected"),
    [
        ({"mode": "off"}, {}, {"gpu_confidential"}),
        ({"mode": ""}, {}, {"gpu_confidential"}),
        ({"mode": "off"}, {"confidential": False}, set()),
        ({}, {"min_devices": 2}, {"gpu_devices"}),
        ({}, {"min_driver": "580.159.03"}, set()),
        ({}, {"min_driver": "580.160"}, {"gpu_driver"}),
        ({}, {"vbios": (VBIOS,)}, set()),
        ({}, {"vbios": ("96.00.74.00.21",)}, {"gpu_vbios"}),
        ({"rims": ()}, {}, {"gpu_unmeasured"}),
        ({"rims": ()}, {"rims": False}, set()),
        ({"responses": ()}, {}, {"gpu_revocation_unknown"}),
        ({"responses": ()}, {"revocation": False}, set()),
        ({"bad_signature": True}, {}, {"gpu_signature"}),
        ({"other_firmware": True}, {}, {"gpu_fwid"}),
        ({"changed": (3,)}, {}, {"gpu_measurement"}),
        ({"changed": (3,)}, {"rims": False}, {"gpu_measurement"}),
    ],
)
def test_state_of_the_gpu(
    knobs: dict[str, object], gpu: dict[str, object], expected: set[str]
) -> None:
    """Mode, number, driver, firmware, measurements and revocation are judged as the policy says."""
    machine = SnpMachine.create()
    beside = MachinePlatform(
        machine,
        lambda nonce, at: gpus().evidence(nonce, at, **knobs),  # type: ignore[arg-type]
    )
    found = codes(make_bundle(of(machine), beside, NOW), use(machine, gpu))
    assert found == expected


def test_one_bad_gpu_among_several() -> None:
    """Each GPU counts: one that is revoked, or signed another nonce, fails the lot."""
    several = gpus(2)
    machine = SnpMachine.create()

    def made(**knobs: object) -> Bundle:
        def evidence(nonce: bytes, at: int) -> bytes:
            return several.evidence(nonce, at, **knobs)  # type: ignore[arg-type]

        return make_bundle(of(machine), MachinePlatform(machine, evidence), NOW)

    accept = use(
        machine,
        {"roots": (several.root,), "rim_roots": (several.rim_root,), "min_devices": 2},
    )
    assert codes(made(), accept) == set()
    assert codes(made(other_nonce=True), accept) == {"gpu_nonce"}
    assert codes(made(responses=several.responses(NOW, revoked=1)), accept) == {"gpu_revoked"}
    assert codes(made(responses=several.responses(NOW, held=0)), accept) == {"gpu_held"}


def test_an_enclave_without_gpu_holds_where_none_is_required() -> None:
    """GPU stays unchecked, and only the policy decides whether that is enough."""
    machine = TdxMachine.create()
    bundle = make_bundle(of(machine), MachinePlatform(machine), NOW).encode()
    accept = use(machine, {"required": False})
    told = Story(bundle, b"", accept, [bundle_entry(bundle)])
    enclave = verify_bundle(bundle, told.bundle_proof, accept, NOW)
    assert {v.name: v.status for v in enclave.verdicts}[Subject.GPU] is Status.NOT_CHECKED


def _disclosed(machine: Machine, **knobs: object) -> Story:
    told = full_story(of(machine), with_gpu(machine, **knobs))
    told.policy = use(
        machine,
        witnesses=tuple(one.verifier for one in WITNESSES),
        min_witnesses=2,
        require_cose=True,
        require_later_epoch=True,
    )
    return told


def _failed(report: object) -> dict[Subject, tuple[str, ...]]:
    verdicts = report.verdicts  # type: ignore[attr-defined]
    return {v.name: v.codes for v in verdicts if v.status is Status.FAILS}


def test_newer_collateral_turns_the_tcb_and_nothing_else() -> None:
    """An advisory of today turns yesterday's receipt: origin, integrity and inclusion stand."""
    machine = TdxMachine.create()
    told = _disclosed(machine)
    data, later = told.disclosure(), NOW + 200 * DAY
    assert verify_disclosure(data, told.policy, later).holds

    news = Collateral(
        tdx=machine.collateral(later, status="OutOfDate", advisories=("INTEL-SA-09999",))
    )
    report = verify_disclosure(data, told.policy, later, collateral=news)
    assert _failed(report) == {Subject.TCB: ("tcb_status", "later_tcb_status")}
    tcb = next(v for v in report.verdicts if v.name is Subject.TCB)
    assert "OutOfDate" in tcb.detail
    refusing = told.policy.model_copy(
        update={"refused_advisories": ("INTEL-SA-09999",), "grace_s": 10**9}
    )
    report = verify_disclosure(data, refusing, later, collateral=news)
    tcb = next(v for v in report.verdicts if v.name is Subject.TCB)
    assert tcb.codes == ("tcb_advisory", "later_tcb_advisory")
    assert "INTEL-SA-09999" in tcb.detail
    still = Collateral(tdx=machine.collateral(later))
    assert verify_disclosure(data, told.policy, later, collateral=still).holds


def test_a_revocation_since_the_turn_turns_the_tcb() -> None:
    """A chain that the vendor revokes later was good at the turn: only the TCB verdict turns."""
    machine = SnpMachine.create()
    told = _disclosed(machine)
    later = NOW + 200 * DAY
    news = Collateral(snp_crls=(machine.crl(later, [machine.issuer.certificate]),))
    report = verify_disclosure(told.disclosure(), told.policy, later, collateral=news)
    assert _failed(report) == {Subject.TCB: ("tcb_cpu_revoked", "later_tcb_cpu_revoked")}
    news = Collateral(ocsp=tuple(gpus().responses(later, revoked=0)))
    report = verify_disclosure(told.disclosure(), told.policy, later, collateral=news)
    assert _failed(report) == {Subject.TCB: ("tcb_gpu_revoked", "later_tcb_gpu_revoked")}


def test_collateral_given_stands_in_for_what_the_evidence_lacks() -> None:
    """A quote and a GPU's report without collateral hold once the verifier brings it."""
    machine = TdxMachine.create()

    def bare(nonce: bytes, at: int) -> bytes:
        return gpus().evidence(nonce, at, rims=(), responses=())

    beside = MachinePlatform(machine, bare, {"collateral": None})
    bundle = make_bundle(of(machine), beside, NOW)
    lacking = {"cpu_collateral", "tcb_status", "gpu_unmeasured", "gpu_revocation_unknown"}
    assert codes(bundle, use(machine)) == lacking
    given = Collateral(machine.collateral(NOW), (), gpus().rims(), tuple(gpus().responses(NOW)))
    assert codes(bundle, use(machine), collateral=given) == set()

    told = story(of(machine), beside)
    told.policy = use(machine)
    later = NOW + 200 * DAY
    assert not verify_disclosure(told.disclosure(), told.policy, later).holds
    given = Collateral(machine.collateral(later), (), gpus().rims(), tuple(gpus().responses(later)))
    assert verify_disclosure(told.disclosure(), told.policy, later, collateral=given).holds


def test_a_revocation_since_the_turn_is_no_word_that_there_was_none() -> None:
    """Evidence without OCSP responses stays unchecked where the only news is a revocation."""
    machine = SnpMachine.create()

    def bare(nonce: bytes, at: int) -> bytes:
        return gpus().evidence(nonce, at, responses=())

    told = story(of(machine), MachinePlatform(machine, bare))
    told.policy, later = use(machine), NOW + 200 * DAY
    news = Collateral(ocsp=tuple(gpus().responses(later, revoked=0)))
    report = verify_disclosure(told.disclosure(), told.policy, later, collateral=news)
    assert _failed(report) == {
        Subject.TCB: ("tcb_gpu_revoked",),
        Subject.GPU: ("gpu_revocation_unknown",),
    }


def test_a_revoked_release_is_known_by_its_measurements() -> None:
    """Software of a withdrawn release that names another, or comes without claims, is refused."""
    machine = SnpMachine.create()
    maker = Signer("maker.example", private_key(9))
    old = Release(b"o" * 32, "1.0", (MeasurementSet(snp.KIND, machine.measurements),))
    manifest = open_release(sign_release(old, maker).encode(), [maker.verifier])
    accept = use(machine, releases=(manifest,), revoked_releases=(old.digest,))
    assert codes(make_bundle(of(machine), with_gpu(machine), NOW), accept) == {"release_revoked"}
    evidence = machine.evidence(bytes(64), NOW)
    report = verify_evidence(snp.KIND, evidence, accept, NOW)
    assert _failed(report) == {Subject.TCB: ("release_revoked",)}


def test_a_revoked_release_turns_the_tcb_alone() -> None:
    """A receipt of a release that its maker withdrew keeps its origin, integrity and inclusion."""
    machine = SnpMachine.create()
    told = _disclosed(machine)
    withdrawn = told.policy.model_copy(update={"revoked_releases": (b"r" * 32,)})
    report = verify_disclosure(told.disclosure(), withdrawn, NOW + DAY)
    assert _failed(report) == {Subject.TCB: ("release_revoked", "later_release_revoked")}
    assert (b"r" * 32).hex() in next(v for v in report.verdicts if v.name is Subject.TCB).detail


def test_later_epoch_of_another_machine() -> None:
    """Keys that are attested next by another machine have left the one they were made on."""
    one, two = SnpMachine.create(chip=1), SnpMachine.create(chip=2)
    told = full_story(of(one), with_gpu(one), later_platform=with_gpu(two))
    told.policy = use(one)
    report = verify_disclosure(told.disclosure(), told.policy, NOW + LATER_S)
    assert _failed(report) == {Subject.FRESHNESS: ("later_other_platform",)}


def test_later_epoch_with_the_gpu_evidence_of_the_first() -> None:
    """What a GPU signed for one epoch says nothing of the next, whose keys are the same."""
    machine = SnpMachine.create()
    first = of(machine)
    again = MachinePlatform(machine, lambda _nonce, at: gpu_evidence(gpu_nonce(first), at))
    told = full_story(first, with_gpu(machine), later_platform=again)
    told.policy = use(machine)
    report = verify_disclosure(told.disclosure(), told.policy, NOW + LATER_S)
    assert _failed(report) == {Subject.FRESHNESS: ("later_gpu_nonce",)}


def test_later_epoch_without_the_gpu() -> None:
    """A machine that had a GPU at the turn and shows none after it is not in the same state."""
    machine = SnpMachine.create()
    told = full_story(of(machine), with_gpu(machine), later_platform=MachinePlatform(machine))
    told.policy = use(machine, {"required": False})
    report = verify_disclosure(told.disclosure(), told.policy, NOW + LATER_S)
    assert _failed(report) == {Subject.FRESHNESS: ("later_gpu_missing",)}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_cache_changes_no_verdict(name: str) -> None:
    """With and without a cache, whatever was asked before, the report is the same."""
    machine = MACHINES[name]()
    told = _disclosed(machine)
    cache = EvidenceCache()
    news = (
        Collateral(tdx=machine.collateral(NOW + DAY, status="OutOfDate"))
        if name == "tdx-v4"
        else (
            Collateral(snp_crls=(machine.crl(NOW + DAY, [machine.issuer.certificate]),))  # type: ignore[union-attr]
        )
    )
    others = (
        told.policy,
        Policy.strict(),
        use(machine, **{machine.kind: {"roots": (b"x" * 32,)}}),
    )
    data = told.disclosure()
    for _ in range(2):
        for accept in others:
            for at in (NOW + DAY, NOW + 400 * DAY):
                for collateral in (Collateral(), news):
                    remembered = verify_disclosure(
                        data, accept, at, collateral=collateral, cache=cache
                    )
                    assert remembered == verify_disclosure(data, accept, at, collateral=collateral)


def test_cache_sees_collateral_expire_between_two_receipts() -> None:
    """A receipt of a time at which the evidence no longer holds is not judged by another's time."""
    machine = TdxMachine.create()
    lived = of(machine, not_before=NOW, not_after=NOW + DAY)
    # In force until six hours after the start of the keys' life.
    short = machine.collateral(NOW - DAY * 3 // 4, days=2)
    where = MachinePlatform(machine, None, {"collateral": short})
    told = story(lived, where)
    told.policy = use(machine, {"required": False})
    digest = decode_bundle(told.bundle).digest
    cache = EvidenceCache()
    for hours, holds in ((0, True), (1, True), (7, False), (2, True), (8, False), (5, True)):
        told.receipt = sign_receipt(receipt(digest, time=NOW + hours * 3600), RECEIPT_KEY)
        told.entries = [bundle_entry(told.bundle), receipt_entry(told.receipt)]
        report = verify_disclosure(told.disclosure(), told.policy, NOW + 2 * DAY, cache=cache)
        assert report.holds is holds, hours


def test_cache_sees_what_lies_between_two_answers() -> None:
    """Of two OCSP responses on a GPU, in force one after the other, neither speaks for between."""
    machine = SnpMachine.create()

    def twice(nonce: bytes, at: int) -> bytes:
        early, late = gpus().responses(at - 20 * HOUR), gpus().responses(at + 8 * HOUR)
        return gpus().evidence(nonce, at, responses=(*early, *late))

    told = story(of(machine, not_after=NOW + DAY), MachinePlatform(machine, twice))
    told.policy, cache = use(machine), EvidenceCache()
    digest = decode_bundle(told.bundle).digest
    for hours, holds in ((1, True), (8, True), (5, False), (2, True), (5, False)):
        told.receipt = sign_receipt(receipt(digest, time=NOW + hours * HOUR), RECEIPT_KEY)
        told.entries = [bundle_entry(told.bundle), receipt_entry(told.receipt)]
        report = verify_disclosure(told.disclosure(), told.policy, NOW + 2 * DAY, cache=cache)
        assert report.holds is holds, hours


def _platforms() -> dict[str, tuple[Platform, Machine]]:
    made = {name: MACHINES[name]() for name in ONE_OF_EACH}
    return {name: (with_gpu(machine), machine) for name, machine in made.items()}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_part_of_the_evidence_is_signed(name: str) -> None:
    """A byte changed in real evidence is noticed even by whoever makes digests and log fit."""
    where, machine = _platforms()[name]
    bundle = make_bundle(of(machine), where, NOW)
    accept = use(machine)
    for half in ("cpu", "gpu"):
        data = bytearray(getattr(bundle, half))
        for place in range(0, len(data), 389):
            data[place] ^= 0x10
            changed = replace(bundle, **{half: bytes(data)})
            try:
                found = codes(changed, accept)
            except UnreadableError:
                found = {"unreadable"}
            assert found, (half, place)
            data[place] ^= 0x10
    assert codes(decode_bundle(bundle.encode()), accept) == set()


def _real(kind: str) -> tuple[bytes, int]:
    """A real sample as evidence, and a time at which its collateral was in force."""
    if kind == tdx.KIND:
        collateral = attestation("tdx/tdx_quote_collateral.json").decode()
        issued = json.loads(json.loads(collateral)["tcb_info"])["issueDate"]
        return tdx.encode_evidence(attestation("tdx/tdx_quote"), collateral), seconds(issued) + DAY
    if kind == snp.KIND:
        chain = x509.load_pem_x509_certificates(attestation("snp/milan.testcer"))
        ders = [one.public_bytes(Encoding.DER) for one in chain]
        leaf = attestation("snp/vcek.testcer")
        return snp.encode_evidence(attestation("snp/attestation.bin"), [leaf, *ders], []), NOW - DAY
    return nvidia.parse_nvidia_json(attestation("nvidia/hopper_evidence.json")), NOW


@pytest.mark.parametrize(
    ("kind", "weakened", "expected"),
    [
        (tdx.KIND, {}, set()),
        (tdx.KIND, {"measurements": ()}, {"measurements_refused"}),
        (tdx.KIND, {"tdx": {"min_tcb": {"module": 263}}}, {"tcb_floor"}),
        (snp.KIND, {"snp": {"products": ("Milan",)}}, {"cpu_debug"}),
        (snp.KIND, {"allow_debug": True, "snp": {"products": ("Milan",)}}, set()),
        (snp.KIND, {"allow_debug": True}, {"cpu_product"}),
        (nvidia.GPU_LABEL, {}, {"gpu_unmeasured", "gpu_revocation_unknown"}),
        (nvidia.GPU_LABEL, {"gpu": {"rims": False, "revocation": False}}, set()),
        (
            nvidia.GPU_LABEL,
            {"gpu": {"rims": False, "revocation": False, "min_driver": "590.13"}},
            {"gpu_driver"},
        ),
    ],
)
def test_real_evidence_under_the_vendors_roots(
    kind: str, weakened: dict[str, object], expected: set[str]
) -> None:
    """Samples of real machines hold by themselves, as far as the policy lets them."""
    data, at = _real(kind)
    accept = Policy.model_validate({"measurements": "any", **weakened})
    report = verify_evidence(kind, data, accept, at)
    assert {code for step in report.steps for code in step.codes} == expected
    assert report.holds == (not expected)
    assert not report.simulated
