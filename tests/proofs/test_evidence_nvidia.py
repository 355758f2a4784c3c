"""Evidence of NVIDIA GPUs: real reports hold, and each way to be wrong has its own code."""

import base64
import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from attestation_files import attestation
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from gpu_machine import (
    ALWAYS,
    DRIVER,
    DRIVER_INDICES,
    VBIOS,
    VBIOS_INDICES,
    GpuMachine,
    answer,
    exchange,
    measurement,
    sign_rim,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs import cbor
from proofs.errors import RefusedError, UnreadableError
from proofs.evidence import gpu_appraiser
from proofs.evidence.base import MAX_EVIDENCE, NO_COLLATERAL, Collateral, GpuAppraisal
from proofs.evidence.nvidia import (
    GPU_LABEL,
    MAX_DEVICES,
    RIM_ROOTS,
    ROOTS,
    Device,
    appraise_gpu,
    encode_evidence,
    parse_nvidia_json,
)
from proofs.evidence.nvidia_rim import MAX_RIM, read_rim, signed_content
from proofs.evidence.nvidia_spdm import MAX_REPORT, REQUEST_SIZE, parse_report

NONCE = bytes(range(32))
AT = 1760000000
RIM_AT = 1700000000  # within the validity of the real RIM's signer, mid-2023 to mid-2025
RIM = "nvidia/1010_0200_882_96005E0001_PROD.swidtag"


@pytest.fixture(scope="module")
def machine() -> GpuMachine:
    """Two GPUs."""
    return GpuMachine.create(2)


def real_report(name: str = "hopperAttestationReport.txt") -> bytes:
    """A report of an H100."""
    return bytes.fromhex(attestation(f"nvidia/{name}").decode())


def real_evidence(report: bytes | None = None, rims: Sequence[bytes] = ()) -> bytes:
    """The evidence of one H100."""
    chain = attestation("nvidia/hopperCertChain.txt")
    return encode_evidence(AT, [Device("HOPPER", chain, report or real_report())], rims)


def judge(evidence: bytes, at: int = AT, **collateral: tuple[bytes, ...]) -> GpuAppraisal:
    """What the appraiser of that label says."""
    return gpu_appraiser(evidence)(evidence, at, Collateral(**collateral))  # type: ignore[arg-type]


def codes(appraisal: GpuAppraisal) -> list[str]:
    """The codes of the problems."""
    return [problem.code for problem in appraisal.problems]


# Real evidence.


def test_real_report_holds() -> None:
    """The H100's report verifies under NVIDIA's root, and says what it says, no more."""
    appraisal = judge(real_evidence())
    (device,) = appraisal.devices
    assert appraisal.problems == ()
    assert appraisal.root in ROOTS
    assert appraisal.nonce == real_report()[4:36]
    assert appraisal.collected_at == AT
    assert (device.architecture, device.driver, device.vbios) == (
        "HOPPER",
        "535.86.09",
        "96.00.5E.00.01",
    )
    assert (device.confidential, device.debug, device.measured) == (None, None, None)
    assert device.unmeasured == ("driver", "VBIOS")
    assert not appraisal.revocation_checked


def test_nvidias_own_file_becomes_evidence() -> None:
    """A file of NVIDIA's tools turns into evidence that holds, with the nonce that it names."""
    data = attestation("nvidia/hopper_evidence.json")
    appraisal = judge(parse_nvidia_json(data))
    assert appraisal.problems == ()
    assert appraisal.nonce.hex() == json.loads(data)[0]["nonce"]
    assert appraisal.collected_at is None
    (device,) = appraisal.devices
    assert (device.driver, device.mode, device.confidential) == ("590.12", "ppcie", True)


def test_report_with_a_bad_signature_is_refused() -> None:
    """NVIDIA's sample of a broken signature is refused for its signature."""
    bad = real_report("hopperAttestationReportInvalidSignature.txt")
    assert "signature" in codes(judge(real_evidence(bad)))


def test_parser_reads_what_nvidias_parser_reads() -> None:
    """Every value that NVIDIA's parser printed of a report comes out of ours, put together anew."""
    parsed = json.loads(attestation("nvidia/spdm_parsed_output.json"))
    blocks = {
        int(index): bytes.fromhex(block["DMTFSpecMeasurementValue"][2:])
        for index, block in parsed["MeasurementRecord"]["MeasurementBlocks"].items()
    }
    printed = parsed["OpaqueData"]["OpaqueDataField"]
    names = {"VBIOS_VERSION": 6, "DRIVER_VERSION": 3, "FWID": 20, "PROTECTED_PCIE_STATUS": 21}
    fields = [
        (kind, bytes.fromhex(printed[f"OPAQUE_FIELD_ID_{name}"][2:]))
        for name, kind in names.items()
    ]
    signature = bytes.fromhex(parsed["Signature"][2:])
    report = parse_report(exchange(NONCE, blocks, fields) + signature, "the report")
    assert len(blocks) == parsed["NumberOfBlocks"]
    assert dict(report.measurements) == blocks
    assert (report.driver, report.vbios) == ("580.159.03", "96.00.74.00.20")
    assert report.fwid == fields[2][1]
    assert report.signature == signature
    assert report.mode == ""


def test_every_signed_byte_of_a_real_report_counts() -> None:
    """A report with one byte changed, of the request or the response, never holds."""
    report = real_report()
    evidence = real_evidence(report)
    start = evidence.index(report)
    assert len(report) > REQUEST_SIZE + 96
    for place in range(start, start + len(report)):
        changed = bytearray(evidence)
        changed[place] ^= 1
        try:
            problems = codes(appraise_gpu(bytes(changed), AT, NO_COLLATERAL))
        except UnreadableError:
            continue
        assert "signature" in problems, place - start


def test_every_byte_of_the_chain_counts_in_evidence() -> None:
    """Evidence whose chain has one character changed is unreadable or does not hold."""
    chain = attestation("nvidia/hopperCertChain.txt")
    evidence = real_evidence()
    start = evidence.index(chain)
    for place in range(start, start + len(chain), 7):
        changed = bytearray(evidence)
        changed[place] ^= 1
        try:
            appraisal = appraise_gpu(bytes(changed), AT, NO_COLLATERAL)
        except UnreadableError:
            continue
        assert appraisal.problems or appraisal.root not in ROOTS, place - start


def test_cut_report_is_unreadable() -> None:
    """A report cut anywhere, or with a byte behind it, is no report."""
    report = real_report()
    for size in range(len(report)):
        with pytest.raises(UnreadableError):
            parse_report(report[:size], "the report")
    for bad in (report + b"\x00", bytes(MAX_REPORT + 1)):
        with pytest.raises(UnreadableError):
            parse_report(bad, "the report")


def test_real_rim_agrees_but_is_half_of_it() -> None:
    """The real VBIOS RIM agrees with the real report; without the driver's it is not enough."""
    appraisal = judge(real_evidence(rims=[attestation(RIM)]), RIM_AT)
    (device,) = appraisal.devices
    assert appraisal.problems == ()
    assert set(appraisal.rim_roots) == RIM_ROOTS
    assert (device.measured, device.unmeasured) == (None, ("driver",))
    assert device.debug is None


def test_real_rim_is_judged_at_the_time_given() -> None:
    """The real RIM's signer ran out in 2025: judged in 2027, or in 2022, it serves nobody."""
    for at, code in ((1800000000, "rim_expired"), (1650000000, "rim_not_yet_valid")):
        appraisal = judge(real_evidence(rims=[attestation(RIM)]), at)
        assert set(codes(appraisal)) == {code}
        assert appraisal.rim_roots == ()
        assert appraisal.devices[0].unmeasured == ("driver", "VBIOS")


def test_changed_real_rim_serves_nobody() -> None:
    """A RIM changed where it counts is unreadable or unused; layout alone may change."""
    rim = attestation(RIM)
    whole = signed_content(read_rim(rim, "the RIM"), "the RIM")
    assert whole is not None and len(whole.measurements) == 12
    places = [*range(rim.index(b"<ds:SignedInfo>"), rim.index(b"<ds:KeyInfo>"), 3)]
    places += [*range(0, rim.index(b"<ds:Signature"), 41)]
    for place in places:
        changed = bytearray(rim)
        changed[place] ^= 1
        try:
            content = signed_content(read_rim(bytes(changed), "the RIM"), "the RIM")
        except UnreadableError:
            continue
        assert content is None, place


# A machine of our own, where every part can be wrong alone.


def test_machine_with_everything_holds(machine: GpuMachine) -> None:
    """Two GPUs with RIMs and OCSP responses: no problem, all facts known."""
    appraisal = judge(machine.evidence(NONCE, AT))
    assert appraisal.problems == ()
    assert appraisal.revocation_checked
    assert (appraisal.root, appraisal.rim_roots) == (machine.root, (machine.rim_root,))
    assert (appraisal.nonce, appraisal.collected_at) == (NONCE, AT)
    assert [(one.measured, one.unmeasured, one.debug) for one in appraisal.devices] == [
        (True, (), False),
        (True, (), False),
    ]
    assert len({device.device_id for device in appraisal.devices}) == 2


def test_blackwell_machine_holds() -> None:
    """The other generation's chain, FWID and RIMs hold in the same way."""
    appraisal = judge(GpuMachine.create(architecture="BLACKWELL").evidence(NONCE, AT))
    assert appraisal.problems == ()
    assert [(one.architecture, one.measured) for one in appraisal.devices] == [("BLACKWELL", True)]


@pytest.mark.parametrize(
    ("knob", "code"),
    [("bad_signature", "signature"), ("other_nonce", "nonce"), ("other_firmware", "fwid")],
)
def test_one_bad_device_spoils_all(machine: GpuMachine, knob: str, code: str) -> None:
    """A bad signature, another nonce, other firmware: each has its code and names the device."""
    appraisal = judge(machine.evidence(NONCE, AT, **{knob: True}))  # type: ignore[arg-type]
    assert codes(appraisal) == [code]
    assert "GPU 2" in appraisal.problems[0].text


def test_validity_of_the_device_certificate() -> None:
    """Before its time and after it, the device's certificate has its own code each."""
    machine = GpuMachine.create(
        valid=(datetime.fromtimestamp(AT, UTC), datetime.fromtimestamp(AT + 100, UTC))
    )
    evidence = machine.evidence(NONCE, AT)
    assert codes(judge(evidence, AT + 50)) == []
    assert codes(judge(evidence, AT - 1)) == ["not_yet_valid"]
    assert codes(judge(evidence, AT + 101)) == ["expired"]


def test_revoked_and_held_devices(machine: GpuMachine) -> None:
    """Revoked and on hold are told apart, and both were looked up."""
    for knob, code in (("revoked", "revoked"), ("held", "held")):
        responses = machine.responses(AT, **{knob: 1})
        appraisal = judge(machine.evidence(NONCE, AT, responses=responses))
        assert codes(appraisal) == [code]
        assert "GPU 2" in appraisal.problems[0].text
        assert appraisal.revocation_checked


def test_revocation_is_checked_only_where_every_chain_was(machine: GpuMachine) -> None:
    """One response less, of devices, of those above them or of RIMs, and it was not checked."""
    responses = machine.responses(AT)
    for number in range(len(responses)):
        fewer = responses[:number] + responses[number + 1 :]
        appraisal = judge(machine.evidence(NONCE, AT, responses=fewer))
        assert appraisal.problems == ()
        assert not appraisal.revocation_checked
    without_rims = machine.evidence(NONCE, AT, responses=responses[:-1], rims=[])
    assert judge(without_rims).revocation_checked
    assert not judge(machine.evidence(NONCE, AT), AT + 10 * 86400).revocation_checked
    assert judge(
        machine.evidence(NONCE, AT, responses=[]), ocsp=tuple(responses)
    ).revocation_checked


def test_modes_are_what_the_report_states(machine: GpuMachine) -> None:
    """Three modes are confidential, an unknown one is not, and silence is not an answer."""
    for mode, stated, confidential in (
        ("spt", "spt", True),
        ("mpt", "mpt", True),
        ("ppcie", "ppcie", True),
        ("off", "unknown", False),
        ("", "", None),
    ):
        (device, _) = judge(machine.evidence(NONCE, AT, mode=mode)).devices
        assert (device.mode, device.confidential) == (stated, confidential)


def test_architecture_is_that_of_the_certificates(machine: GpuMachine) -> None:
    """The label of a generation is not signed, so it must be that of the chips certified."""
    value = cbor.decode(machine.evidence(NONCE, AT), what="it", limit=MAX_EVIDENCE)
    assert isinstance(value, list)
    value[2][0][0] = "BLACKWELL"
    assert "chain" in codes(judge(cbor.encode(value)))


def test_devices_must_differ_and_share_a_root(machine: GpuMachine) -> None:
    """One device counted twice, or one of another root, is a problem."""
    value = cbor.decode(machine.evidence(NONCE, AT), what="it", limit=MAX_EVIDENCE)
    assert isinstance(value, list)
    first, second = value[2]
    assert codes(judge(cbor.encode([*value[:2], [first, first], *value[3:]]))) == ["duplicate"]
    other = cbor.decode(GpuMachine.create().evidence(NONCE, AT), what="it", limit=MAX_EVIDENCE)
    assert isinstance(other, list)
    mixed = judge(cbor.encode([*value[:2], [first, other[2][0]], *value[3:]]))
    assert codes(mixed) == ["chain"]
    assert second


def test_chain_of_another_device_does_not_fit(machine: GpuMachine) -> None:
    """A report under another device's chain is not signed by it."""
    value = cbor.decode(machine.evidence(NONCE, AT), what="it", limit=MAX_EVIDENCE)
    assert isinstance(value, list)
    value[2][0][1], value[2][1][1] = value[2][1][1], value[2][0][1]
    assert codes(judge(cbor.encode(value))) == ["signature", "signature"]


# Measurements against reference values.


def test_other_measurement_is_named(machine: GpuMachine) -> None:
    """A measurement that no RIM allows is refused by its index, under the right part."""
    for index, part in ((22, f"driver {DRIVER}"), (3, f"VBIOS {VBIOS}")):
        appraisal = judge(machine.evidence(NONCE, AT, changed=[index]))
        assert codes(appraisal) == ["measurement"]
        assert f"measurement {index} " in appraisal.problems[0].text
        assert part in appraisal.problems[0].text
        assert [one.measured for one in appraisal.devices] == [True, False]
        assert [one.debug for one in appraisal.devices] == [False, None]
    unnamed = judge(machine.evidence(NONCE, AT, changed=[50, 60]))
    assert unnamed.problems == ()


def test_one_rim_can_refuse_but_not_pass(machine: GpuMachine) -> None:
    """With a RIM for one part only, agreement is not enough and disagreement is."""
    driver, vbios = machine.rims()
    for rim, missing, index in ((driver, "VBIOS", 22), (vbios, "driver", 3)):
        good = judge(machine.evidence(NONCE, AT, rims=[rim])).devices[1]
        assert (good.measured, good.unmeasured) == (None, (missing,))
        bad = judge(machine.evidence(NONCE, AT, rims=[rim], changed=[index])).devices[1]
        assert (bad.measured, bad.unmeasured) == (False, (missing,))


def test_rims_of_other_versions_and_chips_are_passed_over(machine: GpuMachine) -> None:
    """A RIM counts for exactly its version and chip; what it says of others changes nothing."""
    early = (ALWAYS[0], datetime(2024, 1, 1, tzinfo=UTC))
    stale = GpuMachine.create(rim_valid=early).rims("1.2.3", "96.00.00.00.00")
    others = judge(machine.evidence(NONCE, AT, rims=[*stale, *machine.rims()]))
    assert others.problems == ()
    assert others.devices[0].measured is True
    assert judge(machine.evidence(NONCE, AT, rims=stale)).problems == ()
    foreign = GpuMachine.create(architecture="BLACKWELL").rims()
    appraisal = judge(machine.evidence(NONCE, AT, rims=foreign))
    assert appraisal.problems == ()
    assert appraisal.devices[0].unmeasured == ("driver", "VBIOS")


def test_renewed_rim_stands_in_for_an_expired_one() -> None:
    """Of two RIMs for one version the one that holds counts, and the root of it alone."""
    early = (ALWAYS[0], datetime(2024, 1, 1, tzinfo=UTC))
    machine, stale = GpuMachine.create(), GpuMachine.create(rim_valid=early)
    both = [*stale.rims(), *machine.rims()]
    appraisal = judge(machine.evidence(NONCE, AT, rims=both))
    assert appraisal.problems == ()
    assert appraisal.rim_roots == (machine.rim_root,)
    assert codes(judge(machine.evidence(NONCE, AT, rims=stale.rims()))) == ["rim_expired"] * 2


def test_collateral_stands_in_for_the_evidence(machine: GpuMachine) -> None:
    """RIMs that the verifier brings are used instead of those that came along."""
    brought = GpuMachine.create().rims()
    appraisal = judge(machine.evidence(NONCE, AT), rims=brought)
    assert appraisal.rim_roots and machine.rim_root not in appraisal.rim_roots
    assert appraisal.devices[0].measured is True


def test_revoked_rim_signer_is_refused(machine: GpuMachine) -> None:
    """Reference values of a signer that was revoked are not used, and the reason is its own."""
    signer, root = machine.rim_chain
    for reason, code in (
        (x509.ReasonFlags.key_compromise, "rim_revoked"),
        (x509.ReasonFlags.certificate_hold, "rim_held"),
    ):
        bad = answer(signer, root, AT, status=ocsp.OCSPCertStatus.REVOKED, reason=reason)
        responses = [*machine.responses(AT)[:-1], bad]
        appraisal = judge(machine.evidence(NONCE, AT, responses=responses))
        assert set(codes(appraisal)) == {code}
        assert appraisal.devices[0].measured is None


def test_broken_rim_is_refused(machine: GpuMachine) -> None:
    """A RIM whose content was changed, or whose chain is of others, has its own code."""
    driver, vbios = machine.rims()
    old = measurement(22, DRIVER).hex().encode()
    changed = driver.replace(old, b"00" * 48)
    assert changed != driver
    appraisal = judge(machine.evidence(NONCE, AT, rims=[changed, vbios]))
    assert codes(appraisal) == ["rim_signature"]
    assert appraisal.devices[0].unmeasured == ("driver",)
    other = GpuMachine.create().rim_chain
    mixed = sign_rim(DRIVER, {7: [bytes(48)]}, [machine.rim_chain[0], other[1]])
    assert set(codes(judge(machine.evidence(NONCE, AT, rims=[mixed, vbios])))) == {"rim_chain"}


def test_alternatives_and_inactive_measurements(machine: GpuMachine) -> None:
    """Any one alternative will do, inactive measurements do not count, an absent one does."""
    vbios = machine.rims()[1]
    values = {index: [measurement(index, DRIVER)] for index in DRIVER_INDICES}
    chain = machine.rim_chain

    def measured(rim: bytes) -> bool | None:
        evidence = machine.evidence(NONCE, AT, rims=[rim, vbios])
        return judge(evidence).devices[0].measured

    assert measured(sign_rim(DRIVER, values, chain)) is True
    many = {**values, 22: [b"a" * 48, measurement(22, DRIVER), b"b" * 48]}
    assert measured(sign_rim(DRIVER, many, chain)) is True
    wrong = {**values, 22: [b"a" * 48, b"b" * 48]}
    assert measured(sign_rim(DRIVER, wrong, chain)) is False
    assert measured(sign_rim(DRIVER, wrong, chain, inactive=[22])) is True
    assert measured(sign_rim(DRIVER, {**values, 200: [bytes(48)]}, chain)) is False
    both = {**values, VBIOS_INDICES[0]: [measurement(VBIOS_INDICES[0], VBIOS)]}
    assert measured(sign_rim(DRIVER, both, chain)) is False


def test_video_decoder_that_is_off_is_passed_over(machine: GpuMachine) -> None:
    """Index 35 counts unless the report itself says that the decoder is off."""
    for nvdec0, expected in ((b"\xaa", False), (b"\x00", False), (b"\x55", True)):
        evidence = machine.evidence(NONCE, AT, changed=[35], nvdec0=nvdec0)
        assert judge(evidence).devices[1].measured is expected


def test_rim_says_nothing_by_being_wrapped(machine: GpuMachine) -> None:
    """A signed RIM moved into another, or with content added, has no signature that holds."""
    driver = machine.rims()[0]
    evil = sign_rim(DRIVER, {7: [b"e" * 48]}, machine.rim_chain)
    head, _, tail = driver.partition(b"<Payload>")
    added = head + evil[evil.index(b"<Payload>") : evil.index(b"</Payload>") + 10] + b"<Payload>"
    assert signed_content(read_rim(added + tail, "it"), "it") is None
    inner = evil.replace(b"</SoftwareIdentity>", driver + b"</SoftwareIdentity>")
    with pytest.raises(UnreadableError, match="one signature"):
        read_rim(inner, "it")
    body, start = driver[driver.index(b"<Payload>") :], driver.index(b"<Payload>")
    nested = (
        driver[:start] + b"<x>" + body.replace(b"</SoftwareIdentity>", b"</x></SoftwareIdentity>")
    )
    with pytest.raises(UnreadableError):
        read_rim(nested, "it")


def test_rim_is_plain_xml(machine: GpuMachine) -> None:
    """Document types, entities, other encodings, too much and too little are unreadable."""
    rim = machine.rims()[0]
    bomb = b'<!DOCTYPE a [<!ENTITY b "cc">]>' + rim.replace(b"GPU", b"&b;")
    outside = b'<!DOCTYPE a SYSTEM "file:///etc/hostname">' + rim
    hidden = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a []>'.encode("utf-16") + rim
    seven = b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a []>' + rim
    for bad in (
        b"",
        b"<a/>",
        b"text",
        bomb,
        outside,
        hidden,
        seven,
        rim[:-9],
        rim + b" " * MAX_RIM,
    ):
        with pytest.raises(UnreadableError):
            read_rim(bad, "it")
    for changed in (
        rim.replace(b'colloquialVersion="580', b'colloquialVersion="5 80'),
        rim.replace(b"X509Certificate", b"X509Other"),
        rim.replace(b"<ds:X509Certificate>MI", b"<ds:X509Certificate>*I"),
    ):
        with pytest.raises(UnreadableError):
            read_rim(changed, "it")


def test_rim_declares_few_namespaces(machine: GpuMachine) -> None:
    """Where every element sees a thousand of them, canonical XML takes minutes."""
    rim = machine.rims()[0]

    def declaring(count: int) -> bytes:
        more = b"".join(b' xmlns:n%d="urn:%d"' % (number, number) for number in range(count))
        return rim.replace(b"<Payload", b"<Payload" + more)

    room = 16 - rim.count(b"xmlns")
    assert read_rim(declaring(room), "it").version
    with pytest.raises(UnreadableError):
        read_rim(declaring(room + 1), "it")


def test_signed_rim_must_be_a_list_of_measurements(machine: GpuMachine) -> None:
    """Nothing active, values of another size, or none at all: signed, and still unreadable."""
    chain = machine.rim_chain
    for values, inactive in (
        ({7: [bytes(48)]}, [7]),
        ({7: [bytes(47)]}, []),
        ({7: []}, []),
        ({}, []),
    ):
        rim = sign_rim(DRIVER, values, chain, inactive=inactive)
        with pytest.raises(UnreadableError):
            judge(machine.evidence(NONCE, AT, rims=[rim]))


# The encoding.


def test_number_of_devices_is_limited() -> None:
    """Sixteen devices fit in evidence with their collateral; seventeen and none are refused."""
    machine = GpuMachine.create(MAX_DEVICES)
    evidence = machine.evidence(NONCE, AT)
    assert len(evidence) <= MAX_EVIDENCE
    appraisal = judge(evidence)
    assert appraisal.problems == ()
    assert len(appraisal.devices) == MAX_DEVICES
    value = cbor.decode(evidence, what="it", limit=MAX_EVIDENCE)
    assert isinstance(value, list)
    for devices in ([], [*value[2], value[2][0]]):
        with pytest.raises(UnreadableError):
            judge(cbor.encode([*value[:2], devices, *value[3:]]))


def test_other_shapes_are_unreadable(machine: GpuMachine) -> None:
    """Wrong types, an unknown architecture, a chain of two, a newer report: all unreadable."""
    value = cbor.decode(machine.evidence(NONCE, AT), what="it", limit=MAX_EVIDENCE)
    assert isinstance(value, list)
    architecture, chain, report = value[2][0]
    short = b"".join(
        one.certificate.public_bytes(Encoding.PEM)
        for one in (*machine.chain(0)[:1], *machine.chain(0)[-1:])
    )
    newer = machine.report(NONCE, machine.devices[0][1].key).replace(
        b"\x22\x00\x02\x00\x01\x00", b"\x22\x00\x02\x00\x02\x00"
    )
    bad_values: list[object] = [
        value[:4],
        [*value, None],
        ["other", *value[1:]],
        [GPU_LABEL, -1, *value[2:]],
        [*value[:2], [["AMPERE", chain, report]], *value[3:]],
        [*value[:2], [[architecture, chain.decode(), report]], *value[3:]],
        [*value[:2], [[architecture, short, report]], *value[3:]],
        [*value[:2], [[architecture, chain, newer]], *value[3:]],
        [*value[:2], [[architecture, chain]], *value[3:]],
        [*value[:3], [b"x" * (MAX_RIM + 1)], value[4]],
        [*value[:3], ["text"], value[4]],
        [*value[:4], [b"not OCSP"]],
    ]
    for bad in bad_values:
        with pytest.raises(UnreadableError):
            appraise_gpu(cbor.encode(bad), AT, NO_COLLATERAL)


def test_json_with_another_nonce_is_refused() -> None:
    """The nonce beside a report must be the one that the device signed."""
    entries = json.loads(attestation("nvidia/hopper_evidence.json"))
    entries[0]["nonce"] = "00" * 32
    with pytest.raises(RefusedError, match="nonce"):
        parse_nvidia_json(json.dumps(entries).encode())


def test_json_of_other_shapes_is_unreadable() -> None:
    """Anything but a list of complete entries is unreadable."""
    (entry,) = json.loads(attestation("nvidia/hopper_evidence.json"))
    deep = b"[" * 100000
    bad_values: list[object] = [
        {},
        [],
        [7],
        [entry] * (MAX_DEVICES + 1),
        *([{key: value for key, value in entry.items() if key != left}] for left in entry),
        *([{**entry, key: value}] for key in entry for value in (None, 7, "*", "")),
        [{**entry, "evidence": base64.b64encode(b"short").decode()}],
        [{**entry, "arch": "AMPERE"}],
    ]
    for bad in (b"", deep, b"\xff", b"x" * 2**21, *(json.dumps(v).encode() for v in bad_values)):
        with pytest.raises(UnreadableError):
            parse_nvidia_json(bad)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_evidence_raises_one_error(data: st.DataObject) -> None:
    """Evidence with any part replaced by any bytes is judged or raises `UnreadableError`."""
    evidence = data.draw(st.sampled_from(SAMPLES))
    start = data.draw(st.integers(0, len(evidence)))
    end = data.draw(st.integers(start, min(len(evidence), start + 64)))
    changed = evidence[:start] + data.draw(st.binary(max_size=64)) + evidence[end:]
    with contextlib.suppress(UnreadableError):
        gpu_appraiser(changed)(changed, AT, NO_COLLATERAL)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_arbitrary_parts_raise_one_error(data: st.DataObject) -> None:
    """Reports, RIMs and NVIDIA's files of any bytes are read or raise one of our errors."""
    good = data.draw(st.sampled_from(PARTS))
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    changed = good[:start] + data.draw(st.binary(max_size=64)) + good[end:]
    for read in (
        lambda: parse_report(changed, "it"),
        lambda: signed_content(read_rim(changed, "it"), "it"),
        lambda: parse_nvidia_json(changed),
    ):
        with contextlib.suppress(UnreadableError, RefusedError):
            read()


def _samples() -> tuple[list[bytes], list[bytes]]:
    machine = GpuMachine.create()
    report = machine.report(NONCE, machine.devices[0][1].key)
    pem = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in machine.chain(0))
    entry = {
        "arch": "HOPPER",
        "nonce": NONCE.hex(),
        "evidence": base64.b64encode(report).decode(),
        "certificate": base64.b64encode(pem).decode(),
    }
    parts = [b"", report, machine.rims()[1], json.dumps([entry]).encode()]
    return [b"", machine.evidence(NONCE, AT)], parts


SAMPLES, PARTS = _samples()
