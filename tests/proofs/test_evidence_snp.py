"""Evidence of AMD SEV-SNP: a real sample, and machines of the tests that are odd by one thing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
from attestation_files import attestation
from cpu_certificates import DAY, FROM, UNTIL, der, der_uint, revoke
from cpu_machines import SnpMachine
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from snp_machine import MIGRATE_MA, POLICY

from proofs import cbor
from proofs.errors import UnreadableError
from proofs.evidence import CPU_APPRAISERS, snp
from proofs.evidence.base import NO_COLLATERAL, Collateral, CpuAppraisal
from proofs.evidence.certificates import fingerprint
from proofs.evidence.snp_report import SIGNED_SIZE

NOW = 1_800_000_000
SAMPLE_TIME = 1_700_000_000
DATA = b"\x5a" * 64
Make = Callable[[SnpMachine], bytes]


def appraise(
    evidence: bytes, at: int = NOW, collateral: Collateral = NO_COLLATERAL
) -> CpuAppraisal:
    return snp.appraise_cpu(evidence, at, collateral)


def codes(evidence: bytes, at: int = NOW, collateral: Collateral = NO_COLLATERAL) -> list[str]:
    return [problem.code for problem in appraise(evidence, at, collateral).problems]


def holds(evidence: bytes, at: int = NOW) -> bool:
    """Whether evidence is readable and without a problem."""
    try:
        return not appraise(evidence, at).problems
    except UnreadableError:
        return False


def sample() -> tuple[bytes, list[bytes]]:
    """AMD's report and its chain in DER."""
    chain = x509.load_pem_x509_certificates(attestation("snp/milan.testcer"))
    ders = [certificate.public_bytes(Encoding.DER) for certificate in chain]
    return attestation("snp/attestation.bin"), [attestation("snp/vcek.testcer"), *ders]


def flipped(data: bytes) -> Iterator[bytes]:
    """`data` with one bit of each byte the other way round, another bit for each."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def test_the_sample_of_a_milan_holds() -> None:
    """A report of a real Milan passes, and says what its bytes say: debug is on in it."""
    report, chain = sample()
    found = appraise(snp.encode_evidence(report, chain, []), SAMPLE_TIME)
    assert not found.problems
    assert found.root in snp.ROOTS
    assert found.product == "Milan"
    assert found.debug
    assert found.report_data == b"\x01\x02\x03\x04\x05".ljust(64, b"\x00")
    assert found.tcb.numbers == (("bootloader", 2), ("microcode", 68), ("snp", 5), ("tee", 0))
    assert dict(found.measurements)["measurement"] == report[0x90:0xC0]
    assert [name for name, _ in found.measurements] == sorted(dict(found.measurements))
    assert found.platform_id == hashlib.sha256(report[0x1A0:0x1E0]).digest()


@pytest.mark.parametrize(
    ("at", "code"), [(1_600_000_000, "not_yet_valid"), (1_900_000_000, "expired")]
)
def test_the_sample_outside_of_its_validity_says_so(at: int, code: str) -> None:
    """Before and after the VCEK's validity the sample fails, each with its own reason."""
    report, chain = sample()
    assert set(codes(snp.encode_evidence(report, chain, []), at)) == {code}


def test_every_byte_of_the_sample_report_counts() -> None:
    """No bit of the report flips unnoticed: not where it is signed, nor signature, nor padding."""
    report, chain = sample()
    for changed in flipped(report):
        assert not holds(snp.encode_evidence(changed, chain, []), SAMPLE_TIME)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_byte_of_the_sample_chain_counts(which: int) -> None:
    """No bit of VCEK, ASK or ARK flips unnoticed."""
    report, chain = sample()
    for changed in flipped(chain[which]):
        others = [*chain[:which], changed, *chain[which + 1 :]]
        assert not holds(snp.encode_evidence(report, others, []), SAMPLE_TIME)


@pytest.mark.parametrize("name", ["ask_ark_milan", "ask_ark_genoa", "ask_ark_turin_vcek"])
def test_the_pinned_roots_are_amds(name: str) -> None:
    """The second certificate of each of AMD's files is one of the roots that are pinned."""
    _, ark = x509.load_pem_x509_certificates(attestation(f"snp/{name}.pem"))
    assert fingerprint(ark) in snp.ROOTS


@pytest.mark.parametrize("key", ["vcek", "vlek"])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_each_product_and_key_holds(product: str, key: str) -> None:
    """Milan, Genoa and Turin pass with VCEK and VLEK, under the root that their chain names."""
    machine = SnpMachine.create(product, key)
    found = CPU_APPRAISERS["snp"](machine.evidence(DATA, NOW), NOW, NO_COLLATERAL)
    assert not found.problems
    assert (found.root, found.product) == (machine.root, product)
    assert found.measurements == machine.measurements
    assert found.report_data == DATA
    assert dict(found.tcb.numbers) == machine.tcb
    assert ("fmc" in dict(found.tcb.numbers)) == (product == "Turin")
    assert not found.debug
    assert ("signed by", key.upper()) in found.facts


def _certified(machine: SnpMachine, certificate: bytes, **knobs: object) -> bytes:
    report = machine.report(DATA, **knobs)  # type: ignore[arg-type]
    return snp.encode_evidence(report, [certificate, machine.issuer.der, machine.ark.der], [])


def _under_another_root(machine: SnpMachine) -> bytes:
    genoa = SnpMachine.create("Genoa")
    chain = [machine.certificate(), genoa.issuer.der, genoa.ark.der]
    return snp.encode_evidence(machine.report(DATA), chain, [])


def _with_crl(machine: SnpMachine, crl: bytes) -> bytes:
    chain = [machine.certificate(), machine.issuer.der, machine.ark.der]
    return snp.encode_evidence(machine.report(DATA), chain, [crl])


def _of_another_machine(machine: SnpMachine) -> bytes:
    return _certified(machine, SnpMachine.create(machine.product, chip=2).certificate())


def _with_patches(machine: SnpMachine, patches: dict[int, bytes], **knobs: object) -> bytes:
    return machine.evidence(DATA, NOW, patches=patches, **knobs)


REFUSED: dict[str, tuple[Make, list[str]]] = {
    "signed with another machine's key": (_of_another_machine, ["signature", "chip"]),
    "for another chip": (lambda m: m.evidence(DATA, NOW, chip_id=b"\x07" * 64), ["chip"]),
    "certificate of a lower TCB": (
        lambda m: _certified(m, m.certificate({"snp": 22})),
        ["tcb"],
    ),
    "certificate without microcode": (
        lambda m: _certified(m, m.certificate(**{"3_8": b""})),
        ["tcb"],
    ),
    "certificate with a longer number": (
        lambda m: _certified(m, m.certificate(**{"3_3": der(0x02, b"\x00\x17")})),
        ["tcb"],
    ),
    "VLEK named, VCEK given": (lambda m: m.evidence(DATA, NOW, signing_key=1), ["key"]),
    "no key named": (lambda m: m.evidence(DATA, NOW, signing_key=7), ["key"]),
    "certificate of both kinds": (
        lambda m: _certified(m, m.certificate(**{"5": der(0x16, b"a cloud")})),
        ["key"],
    ),
    "unknown product": (
        lambda m: _certified(m, m.certificate(**{"2": der(0x16, b"Naples-A0")})),
        ["product"],
    ),
    "certificate without product": (
        lambda m: _certified(m, m.certificate(**{"2": b""})),
        ["product"],
    ),
    "processor of another product": (
        lambda m: m.evidence(DATA, NOW, version=3, cpuid=(0x19, 0x11)),
        ["product"],
    ),
    "version 2 of a Turin": (
        lambda m: _certified(m, m.certificate(**{"2": der(0x16, b"Turin-B0")})),
        ["product"],
    ),
    "migration agent": (lambda m: m.evidence(DATA, NOW, policy=POLICY | MIGRATE_MA), ["migration"]),
    "lower privilege": (lambda m: m.evidence(DATA, NOW, vmpl=2), ["vmpl"]),
    "reports more than runs": (lambda m: m.evidence(DATA, NOW, current={"snp": 1}), ["tcb"] * 2),
    "revoked": (lambda m: m.evidence(DATA, NOW, revoked=True), ["revoked"]),
    "expired CRL": (
        lambda m: _with_crl(m, m.crl(NOW, days=0)),
        ["expired"],
    ),
    "CRL of tomorrow": (
        lambda m: _with_crl(m, m.crl(NOW + 2 * DAY)),
        ["not_yet_valid"],
    ),
    "CRL of the ASK": (
        lambda m: _with_crl(m, revoke(m.issuer, [], NOW)),
        ["collateral"],
    ),
    "issuer of another product": (_under_another_root, ["chain"]),
}


@pytest.mark.parametrize(("make", "expected"), REFUSED.values(), ids=REFUSED)
def test_each_oddity_has_its_reason(make: Make, expected: list[str]) -> None:
    """Evidence that is odd by one thing has the problem of that thing, and no other."""
    assert codes(make(SnpMachine.create("Milan"))) == expected


def test_validity_of_synthetic_chains_is_judged() -> None:
    """Outside of the certificates' validity the reason is the time and nothing else."""
    machine = SnpMachine.create()
    early = snp.encode_evidence(
        machine.report(DATA), [machine.certificate(), machine.issuer.der, machine.ark.der], []
    )
    assert set(codes(early, FROM - 1)) == {"not_yet_valid"}
    assert set(codes(early, UNTIL + 1)) == {"expired"}
    assert set(codes(early, -(2**70))) == {"not_yet_valid"}
    assert set(codes(early, 2**70)) == {"expired"}


def test_debug_is_told() -> None:
    """The policy bit that lets the host debug the guest is told, for the policy to judge."""
    found = appraise(SnpMachine.create().evidence(DATA, NOW, debug=True))
    assert found.debug
    assert not found.problems


def test_a_masked_chip_is_named_by_its_certificate() -> None:
    """Where the host masks the chip's id, the VCEK still names it; a VLEK names no machine."""
    one, two = SnpMachine.create(chip=1), SnpMachine.create(chip=2)
    masked = partial(SnpMachine.evidence, report_data=DATA, at=NOW, chip_id=bytes(64))
    found = appraise(masked(one))
    assert not found.problems
    assert found.platform_id == appraise(one.evidence(DATA, NOW)).platform_id
    assert found.platform_id != appraise(masked(two)).platform_id
    vlek = appraise(masked(SnpMachine.create(key="vlek")))
    assert not vlek.problems
    assert vlek.platform_id != hashlib.sha256(bytes(64)).digest()


def test_turin_names_its_chip_in_eight_bytes() -> None:
    """A Turin's certificate has eight bytes of the chip's id; the rest of the report's are zero."""
    machine = SnpMachine.create("Turin")
    assert codes(machine.evidence(DATA, NOW, chip_id=machine.chip_id[:63] + b"\x01")) == ["chip"]


def test_a_chip_id_may_stand_in_an_octet_string() -> None:
    """KDS writes the chip's id bare; written as DER wants it, it means the same."""
    machine = SnpMachine.create()
    assert not codes(_certified(machine, machine.certificate(**{"4": der(4, machine.chip_id)})))


RESERVED = {
    "version 1": {0x00: b"\x01"},
    "version 6": {0x00: b"\x06"},
    "policy bit 17": {0x0A: b"\x01"},
    "policy bit 26": {0x0B: b"\x04"},
    "vmpl 4": {0x30: b"\x04"},
    "signature algorithm": {0x34: b"\x02"},
    "TCB byte": {0x3A: b"\x01"},
    "platform bit 6": {0x40: b"\x65"},
    "platform bit 8": {0x41: b"\x01"},
    "flag bit 5": {0x48: b"\x20"},
    "after the flags": {0x4C: b"\x01"},
    "author digest without author": {0x110: b"\x01"},
    "CPUID in version 2": {0x188: b"\x19"},
    "after CPUID": {0x19F: b"\x01"},
    "after the current build": {0x1EB: b"\x01"},
    "after the committed build": {0x1EF: b"\x01"},
    "mitigations in version 2": {0x1F8: b"\x01"},
    "before the signature": {SIGNED_SIZE - 1: b"\x01"},
}


@pytest.mark.parametrize("patches", RESERVED.values(), ids=RESERVED)
def test_reserved_bits_are_unreadable(patches: dict[int, bytes]) -> None:
    """What the specification reserves must be zero, also where it is properly signed."""
    with pytest.raises(UnreadableError):
        appraise(_with_patches(SnpMachine.create("Milan"), patches))


def test_what_follows_the_signature_is_zero() -> None:
    """The 368 bytes after the signature are not signed, so they may only be zero."""
    machine = SnpMachine.create()
    chain = [machine.certificate(), machine.issuer.der, machine.ark.der]
    report = machine.report(DATA)
    with pytest.raises(UnreadableError):
        appraise(snp.encode_evidence(report[:-1] + b"\x01", chain, []))
    with pytest.raises(UnreadableError):
        appraise(snp.encode_evidence(report + b"\x00", chain, []))


@pytest.mark.parametrize(("version", "readable"), [(3, False), (4, False), (5, True)])
def test_mitigation_vectors_come_with_version_5(version: int, *, readable: bool) -> None:
    """Launch and current mitigation vectors are fields of version 5, reserved before it."""
    evidence = _with_patches(SnpMachine.create("Turin"), {0x1F8: b"\x01" * 16}, version=version)
    assert holds(evidence) == readable


def test_author_digest_goes_with_its_flag() -> None:
    """With an author key, its digest is among the measurements."""
    evidence = _with_patches(SnpMachine.create(), {0x48: b"\x01", 0x110: b"\x0a" * 48})
    assert dict(appraise(evidence).measurements)["author_key_digest"] == b"\x0a" * 48


def test_newer_crls_replace_those_in_the_evidence() -> None:
    """A CRL that the verifier brings is judged instead; one of another root changes nothing."""
    machine, other = SnpMachine.create("Milan"), SnpMachine.create("Genoa")
    evidence = machine.evidence(DATA, NOW)
    newer = Collateral(snp_crls=(machine.crl(NOW, [machine.issuer.certificate]),))
    assert codes(evidence, NOW, newer) == ["revoked"]
    foreign = Collateral(snp_crls=(other.crl(NOW, [machine.issuer.certificate]),))
    assert not codes(evidence, NOW, foreign)
    assert codes(machine.evidence(DATA, NOW, revoked=True), NOW, foreign) == ["revoked"]


def test_revocation_is_told_where_it_was_looked_up() -> None:
    """Without any CRL nothing fails, and the facts say that nobody looked."""
    machine = SnpMachine.create()
    without = appraise(machine.evidence(DATA, NOW, crl=False))
    assert not without.problems
    assert ("revocation looked up", "no") in without.facts
    assert ("revocation looked up", "yes") in appraise(machine.evidence(DATA, NOW)).facts


def test_every_byte_of_a_crl_counts() -> None:
    """No bit of a CRL flips unnoticed."""
    machine = SnpMachine.create()
    report, chain = (
        machine.report(DATA),
        [machine.certificate(), machine.issuer.der, machine.ark.der],
    )
    crl = machine.crl(NOW)
    assert holds(snp.encode_evidence(report, chain, [crl]))
    for changed in flipped(crl):
        assert not holds(snp.encode_evidence(report, chain, [changed]))


def test_a_signature_has_whole_bytes() -> None:
    """A CRL whose last bit is declared unused is another encoding of the same, and refused."""
    machine = SnpMachine.create()
    crl = machine.crl(NOW)
    while crl[-1] & 1:  # each signature is another
        crl = machine.crl(NOW)
    unused = len(crl) - machine.ark.key.key_size // 8 - 1
    assert crl[unused] == 0
    assert holds(_with_crl(machine, crl))
    assert not holds(_with_crl(machine, crl[:unused] + b"\x01" + crl[unused + 1 :]))


def test_a_crl_is_in_its_issuers_name() -> None:
    """What the ARK signed in another's name is not the ARK's list."""
    machine = SnpMachine.create()
    named = replace(machine.ark, certificate=machine.issuer.certificate)
    assert codes(_with_crl(machine, revoke(named, [], NOW))) == ["collateral"]


def test_a_chain_is_exactly_three() -> None:
    """A certificate more or less, or in another order, is no chain."""
    machine = SnpMachine.create()
    leaf, issuer, root = machine.certificate(), machine.issuer.der, machine.ark.der
    for chain in ([leaf, issuer], [leaf, issuer, root, root]):
        with pytest.raises(UnreadableError):
            appraise(snp.encode_evidence(machine.report(DATA), chain, []))
    assert "chain" in codes(snp.encode_evidence(machine.report(DATA), [leaf, root, issuer], []))


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]
)
def test_a_leaf_signs_with_p384(key: ec.EllipticCurvePrivateKey) -> None:
    """A certificate for a key on another curve, or for RSA, signs no report."""
    machine = SnpMachine.create()
    odd = replace(machine, _key=key)
    signer = odd if isinstance(key, ec.EllipticCurvePrivateKey) else machine
    chain = [odd.certificate(), machine.issuer.der, machine.ark.der]
    assert codes(snp.encode_evidence(signer.report(DATA), chain, [])) == ["signature"]


def test_numbers_over_127_stand_as_der_wants() -> None:
    """A security version over 127 has a zero byte before it in the certificate."""
    assert der_uint(213) == b"\x02\x02\x00\xd5"
    assert not codes(SnpMachine.create().evidence(DATA, NOW, tcb={"tee": 255}))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_unreadable(data: bytes) -> None:
    """Bytes that are no evidence, and evidence with such parts, raise `UnreadableError` alone."""
    machine = SnpMachine.create()
    for evidence in (
        data,
        snp.encode_evidence(data, [data] * 3, [data]),
        snp.encode_evidence(machine.report(DATA), [data, machine.issuer.der, machine.ark.der], []),
    ):
        with pytest.raises(UnreadableError):
            appraise(evidence)


@lru_cache
def untouched() -> bytes:
    """Evidence that holds, the same in each example."""
    return SnpMachine.create().evidence(DATA, NOW)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_changed_evidence_never_passes_and_never_breaks(data: st.DataObject) -> None:
    """Bytes cut out of or put into any part of evidence give problems or `UnreadableError`."""
    evidence = untouched()
    items: Any = cbor.decode(evidence, what="evidence", limit=1 << 20)
    parts: list[bytes] = [items[1], *items[2], *items[3]]
    which = data.draw(st.integers(0, len(parts) - 1))
    part = parts[which]
    at = data.draw(st.integers(0, len(part)))
    cut = data.draw(st.integers(0, 8))
    parts[which] = part[:at] + data.draw(st.binary(max_size=8)) + part[at + cut :]
    changed = snp.encode_evidence(parts[0], parts[1:4], parts[4:])
    assert changed == evidence or not holds(changed)
