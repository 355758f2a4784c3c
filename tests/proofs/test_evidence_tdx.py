"""Evidence of Intel TDX: a real quote with collateral, and machines that are odd by one thing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from attestation_files import attestation
from cpu_certificates import DAY, FROM, issue
from cpu_machines import TdxMachine
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tdx_machine import BEFORE, MIGRATABLE, RECOVERED, SEPT_VE_DISABLE, seconds

from proofs import cbor
from proofs.errors import UnreadableError
from proofs.evidence import CPU_APPRAISERS, tdx
from proofs.evidence.base import NO_COLLATERAL, Collateral, CpuAppraisal

NOW = 1_800_000_000
SAMPLE_TIME = 1_751_000_000  # 2025-06-27
DATA = b"\x5a" * 64
SIGNED_PARTS = ("tcb_info", "tcb_info_signature", "qe_identity", "qe_identity_signature")
CRLS = ("root_ca_crl", "pck_crl")
HEX = (*CRLS, "tcb_info_signature", "qe_identity_signature")
OTHER_DIGIT = str.maketrans("0123456789abcdef", "1032547698badcfe")
CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")


def appraise(
    evidence: bytes, at: int = NOW, collateral: Collateral = NO_COLLATERAL
) -> CpuAppraisal:
    return tdx.appraise_cpu(evidence, at, collateral)


def codes(evidence: bytes, at: int = NOW, collateral: Collateral = NO_COLLATERAL) -> list[str]:
    return [problem.code for problem in appraise(evidence, at, collateral).problems]


def holds(evidence: bytes, at: int = NOW) -> bool:
    """Whether evidence is readable and without a problem."""
    try:
        return not appraise(evidence, at).problems
    except UnreadableError:
        return False


def sample() -> tuple[bytes, str]:
    """A real quote, without the zeros after it, and its collateral."""
    quote, collateral = attestation("tdx/tdx_quote"), attestation("tdx/tdx_quote_collateral.json")
    items = cbor.decode(tdx.encode_evidence(quote, None), what="evidence", limit=1 << 20)
    return cbor.as_bytes(cbor.as_array(items, "evidence", 3)[1], "quote"), collateral.decode()


def encode(quote: bytes, collateral: str | None) -> bytes:
    """Evidence as it is, without the checks of `encode_evidence`."""
    return cbor.encode(["sottovoce-tdx-v1", quote, collateral])


def flipped(data: bytes) -> Iterator[bytes]:
    """`data` with one bit of each byte the other way round, another bit for each."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def changed_texts(text: str, digits: int) -> Iterator[str]:
    """`text` with its characters, one of each `digits`, replaced one by one by their neighbour."""
    for at in range(0, len(text), digits):
        other = text[at].translate(OTHER_DIGIT) if digits > 1 else chr(ord(text[at]) ^ 1)
        yield text[:at] + other + text[at + 1 :]


def test_the_sample_holds() -> None:
    """A real quote passes at its time with its collateral, and says what its bytes say."""
    quote, collateral = sample()
    found = appraise(tdx.encode_evidence(quote, collateral), SAMPLE_TIME)
    assert not found.problems
    assert found.root in tdx.ROOTS
    assert found.report_data == quote[568:632]
    assert dict(found.measurements)["mrtd"] == quote[184:232]
    assert dict(found.measurements)["rtmr3"] == quote[520:568]
    assert [name for name, _ in found.measurements] == sorted(dict(found.measurements))
    assert not found.debug
    assert (found.tcb.status, found.tcb.advisories) == ("UpToDate", ())
    assert found.tcb.current_until is None
    assert dict(found.tcb.numbers) == {
        "evaluation": 17,
        "microcode": 3,
        "module": 0x0106,
        "pce": 11,
        "qe": 6,
    }
    assert ("platform line (FMSPC)", "b0c06f000000") in found.facts


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (1_700_000_000, "not_yet_valid"),
        (1_750_328_000, "not_yet_valid"),  # between the two issue dates
        (1_752_921_000, "expired"),  # TCB info and PCK CRL only
        (1_800_000_000, "expired"),
        (-1, "not_yet_valid"),
        (2**70, "expired"),
    ],
)
def test_the_sample_outside_of_its_validity_says_so(at: int, code: str) -> None:
    """Before and after the validity of its collateral the sample fails, with that reason alone."""
    assert set(codes(tdx.encode_evidence(*sample()), at)) == {code}


def test_every_byte_of_the_sample_quote_counts() -> None:
    """No bit of header, body, signatures, quoting enclave's report or PCK chain flips unnoticed."""
    quote, collateral = sample()
    for changed in flipped(quote):
        assert not holds(encode(changed, collateral), SAMPLE_TIME)


@pytest.mark.parametrize("part", [*SIGNED_PARTS, *CRLS, *CHAINS])
def test_every_byte_of_the_sample_collateral_counts(part: str) -> None:
    """No byte of TCB info, QE identity, CRLs, their signatures and chains changes unnoticed."""
    quote, text = sample()
    collateral = json.loads(text)
    digits = 2 if part in HEX else 1
    for changed in changed_texts(collateral[part], digits):
        assert not holds(encode(quote, json.dumps({**collateral, part: changed})), SAMPLE_TIME)


def test_zeros_after_the_sample_are_left_out() -> None:
    """The kernel's buffer is longer than the quote: its zeros go, anything else is refused."""
    raw, (quote, collateral) = attestation("tdx/tdx_quote"), sample()
    assert len(raw) > len(quote)
    assert tdx.encode_evidence(raw, collateral) == tdx.encode_evidence(quote, collateral)
    for tail in (b"\x00", b"\x01"):
        with pytest.raises(UnreadableError):
            appraise(encode(quote + tail, collateral), SAMPLE_TIME)
    with pytest.raises(UnreadableError):
        tdx.encode_evidence(quote + b"\x01", collateral)


@pytest.mark.parametrize("version", [4, 5])
def test_quotes_of_both_versions_hold(version: int) -> None:
    """Version 4 with a TD report of 1.0 and version 5 with one of 1.5 pass, under their root."""
    machine = TdxMachine.create(version)
    found = CPU_APPRAISERS["tdx"](machine.evidence(DATA, NOW), NOW, NO_COLLATERAL)
    assert not found.problems
    assert found.root == machine.root
    assert found.measurements == machine.measurements
    assert found.report_data == DATA
    assert (found.tcb.status, found.debug) == ("UpToDate", False)
    assert ("quote version", str(version)) in found.facts


def test_a_machine_keeps_its_name() -> None:
    """The platform's id is the same in both versions of the quote, another on another machine."""
    four, five = (TdxMachine.create(version) for version in (4, 5))
    other = TdxMachine.create(4, platform=2)
    names = [appraise(machine.evidence(DATA, NOW)).platform_id for machine in (four, five, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("knobs", "status", "current_until"),
    [
        ({"status": "SWHardeningNeeded"}, "SWHardeningNeeded", None),
        ({"status": "ConfigurationNeeded"}, "ConfigurationNeeded", None),
        ({"status": "OutOfDate"}, "OutOfDate", seconds(RECOVERED)),
        (
            {"status": "OutOfDateConfigurationNeeded"},
            "OutOfDateConfigurationNeeded",
            seconds(RECOVERED),
        ),
        ({"module_status": "OutOfDate"}, "OutOfDate", seconds(RECOVERED)),
        ({"qe_status": "OutOfDate"}, "OutOfDate", seconds(RECOVERED)),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_statuses_are_intels_words(
    version: int, knobs: dict[str, Any], status: str, current_until: int | None
) -> None:
    """A status passes as Intel's word, with its advisories, and since when it is out of date."""
    machine = TdxMachine.create(version)
    advisories = ["INTEL-SA-00001"] if "status" in knobs else []
    collateral = machine.collateral(NOW, advisories=advisories, **knobs)
    found = appraise(machine.evidence(DATA, NOW, collateral=collateral))
    assert not found.problems
    assert found.tcb.status == status
    assert found.tcb.advisories == tuple(advisories)
    assert found.tcb.current_until == current_until


def _resigned(machine: TdxMachine, change: Callable[[dict[str, Any]], None]) -> str:
    """Collateral whose TCB info was changed before it was signed."""
    collateral = json.loads(machine.collateral(NOW, status="OutOfDate"))
    tcb_info = json.loads(collateral["tcb_info"])
    change(tcb_info)
    collateral["tcb_info"] = json.dumps(tcb_info)
    signature = machine.sign_collateral(collateral["tcb_info"])
    collateral["tcb_info_signature"] = signature.hex()
    return json.dumps(collateral)


def test_a_level_falls_out_of_date_by_the_next_recovery() -> None:
    """With several newer levels, the oldest of them is what the platform lacks first."""
    machine = TdxMachine.create()

    def add_newest(tcb_info: dict[str, Any]) -> None:
        newest = json.loads(json.dumps(tcb_info["tcbLevels"][0]))
        newest["tcb"]["pcesvn"] += 1
        newest["tcbDate"] = "2026-11-10T00:00:00Z"
        tcb_info["tcbLevels"].insert(0, newest)

    evidence = machine.evidence(DATA, NOW, collateral=_resigned(machine, add_newest))
    assert appraise(evidence).tcb.current_until == seconds(RECOVERED)


def test_a_module_falls_out_of_date_by_its_own_recoveries() -> None:
    """Levels of the platform say nothing of the module's date, though one status holds for both."""
    machine = TdxMachine.create()
    recovered = "2026-06-09T00:00:00Z"

    def age(tcb_info: dict[str, Any]) -> None:
        newest = tcb_info["tcbLevels"].pop(0)
        tcb_info["tcbLevels"][0] |= {"tcbStatus": "UpToDate", "tcbDate": "2025-02-11T00:00:00Z"}
        newest["tcb"]["pcesvn"] = 0
        tcb_info["tcbLevels"].append(newest)
        (identity,) = tcb_info["tdxModuleIdentities"]
        (own,) = identity["tcbLevels"]
        newer = {"tcb": {"isvsvn": 7}, "tcbDate": recovered, "tcbStatus": "UpToDate"}
        own |= {"tcbStatus": "OutOfDate", "tcbDate": BEFORE}
        identity["tcbLevels"] = [newer, own]

    found = appraise(machine.evidence(DATA, NOW, collateral=_resigned(machine, age)))
    assert (found.tcb.status, found.tcb.current_until) == ("OutOfDate", seconds(recovered))


def test_without_a_newer_level_its_own_date_counts() -> None:
    """Where no level is newer, a level is out of date from its own date on: no grace is won."""
    machine = TdxMachine.create()

    def drop_newest(tcb_info: dict[str, Any]) -> None:
        del tcb_info["tcbLevels"][0]

    evidence = machine.evidence(DATA, NOW, collateral=_resigned(machine, drop_newest))
    assert appraise(evidence).tcb.current_until == seconds(BEFORE)


def test_a_date_that_is_none_gives_no_grace() -> None:
    """An unreadable date of a level above gives no time from which a grace could count."""
    machine = TdxMachine.create()

    def spoil(tcb_info: dict[str, Any]) -> None:
        tcb_info["tcbLevels"][0]["tcbDate"] = "soon"

    found = appraise(machine.evidence(DATA, NOW, collateral=_resigned(machine, spoil)))
    assert (found.tcb.status, found.tcb.current_until) == ("OutOfDate", None)


def test_signed_tcb_info_of_another_shape_is_collateral() -> None:
    """TCB info that is signed and yet says too little is named as such."""
    machine = TdxMachine.create()

    def shorten(tcb_info: dict[str, Any]) -> None:
        for level in tcb_info["tcbLevels"]:
            level["tcb"]["tdxtcbcomponents"].pop()

    def other_line(tcb_info: dict[str, Any]) -> None:
        tcb_info["fmspc"] = "00" * 6

    for change in (shorten, other_line):
        evidence = machine.evidence(DATA, NOW, collateral=_resigned(machine, change))
        assert codes(evidence) == ["collateral"]


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "debug": ({"debug": True}, ["debug"]),
    "no SEPT_VE_DISABLE": ({"attributes": 0}, ["attributes"]),
    "migratable": ({"attributes": SEPT_VE_DISABLE | MIGRATABLE}, ["migration"]),
    "profiled": ({"attributes": SEPT_VE_DISABLE | 1 << 5}, ["profiling"]),
    "service TD may follow": ({"attributes": SEPT_VE_DISABLE | 1 << 17}, ["service_td"]),
    "reserved attribute": ({"attributes": SEPT_VE_DISABLE | 1 << 40}, ["attributes"]),
    "unknown TDX module": ({"seam_signer": b"\x01" * 48}, ["module"]),
    "quoting enclave in debug mode": ({"qe_debug": True}, ["quoting_enclave"]),
    "TCB revoked": ({"status": "Revoked"}, ["revoked"]),
    "PCK revoked": ({"revoked": True}, ["revoked"]),
    "no collateral": ({"collateral": None}, ["collateral"]),
}


@pytest.mark.parametrize(("knobs", "expected"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("version", [4, 5])
def test_each_oddity_has_its_reason(
    version: int, knobs: dict[str, Any], expected: list[str]
) -> None:
    """Evidence that is odd by one thing has the problem of that thing, and no other."""
    found = appraise(TdxMachine.create(version).evidence(DATA, NOW, **knobs))
    assert [problem.code for problem in found.problems] == expected
    assert found.debug == knobs.get("debug", False)
    assert found.tcb.status == ("Revoked" if knobs.get("status") == "Revoked" else "")


def test_a_service_td_is_refused() -> None:
    """Quotes of TDX 1.5 name a service TD; one that has one is refused."""
    evidence = TdxMachine.create(5).evidence(DATA, NOW, service_td=b"\x01" * 48)
    assert codes(evidence) == ["service_td"]


@pytest.mark.parametrize("which", ["root_ca", "pck_ca", "tcb_signer"])
def test_revoked_issuers_are_found(which: str) -> None:
    """Root, PCK CA and TCB signing certificate count as revoked where the root's CRL has them."""
    machine = TdxMachine.create()
    listed: x509.Certificate = getattr(machine, which).certificate
    collateral = machine.collateral(NOW, revoked=[listed])
    assert codes(machine.evidence(DATA, NOW, collateral=collateral)) == ["revoked"]


def test_newer_collateral_replaces_the_evidences_own() -> None:
    """What the verifier brings is judged instead: later, and with a verdict that turned."""
    machine = TdxMachine.create()
    evidence = machine.evidence(DATA, NOW)
    later = NOW + 90 * DAY
    assert set(codes(evidence, later)) == {"expired"}
    newer = Collateral(tdx=machine.collateral(later, status="OutOfDate", advisories=["INTEL-SA-1"]))
    found = appraise(evidence, later, newer)
    assert not found.problems
    assert (found.tcb.status, found.tcb.advisories) == ("OutOfDate", ("INTEL-SA-1",))
    without = machine.evidence(DATA, NOW, collateral=None)
    assert not codes(without, NOW, Collateral(tdx=machine.collateral(NOW)))


def test_collateral_may_repeat_the_pck_chain() -> None:
    """dcap-qvl hands out collateral with the quote's PCK chain in it; another's is refused."""
    machine, other = TdxMachine.create(), TdxMachine.create(platform=2)
    for owner in (machine, other):
        collateral = json.loads(machine.collateral(NOW))
        chain = owner.pck.pem + owner.pck_ca.pem + owner.root_ca.pem
        collateral["pck_certificate_chain"] = chain
        evidence = machine.evidence(DATA, NOW, collateral=json.dumps(collateral))
        if owner is machine:
            assert holds(evidence)
        else:
            with pytest.raises(UnreadableError):
                appraise(evidence)


def test_a_quote_carries_its_own_chain() -> None:
    """A quote whose chain is not said to be one is unreadable, also where collateral repeats it."""
    machine = TdxMachine.create()
    collateral = json.loads(machine.collateral(NOW))
    chain = machine.pck.pem + machine.pck_ca.pem + machine.root_ca.pem
    collateral["pck_certificate_chain"] = chain
    quote = machine.quote(DATA)
    kind = quote.index(b"-----BEGIN") - 6
    assert quote[kind : kind + 2] == b"\x05\x00"
    for other in (b"\x04\x00", b"\x05\x01"):
        odd = quote[:kind] + other + quote[kind + 2 :]
        with pytest.raises(UnreadableError):
            appraise(encode(odd, json.dumps(collateral)))


def test_collateral_has_nothing_beside_it() -> None:
    """An entry that no one takes, or one in other letters, is refused: one text, one meaning."""
    machine = TdxMachine.create()
    collateral = json.loads(machine.collateral(NOW))
    odd = [
        {**collateral, "more": ""},
        {**collateral, "pck_crl": collateral["pck_crl"].upper()},
        {**collateral, "tcb_info_signature": collateral["tcb_info_signature"] + "00"},
        {**collateral, "tcb_info_issuer_chain": collateral["tcb_info_issuer_chain"] + "\n"},
    ]
    for changed in odd:
        with pytest.raises(UnreadableError):
            appraise(machine.evidence(DATA, NOW, collateral=json.dumps(changed)))


def _under_another_root(machine: TdxMachine) -> TdxMachine:
    """The same machine, its collateral signed under a root of the same name."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = issue("Intel SGX Root CA of tests", key, None, ca=True)
    signer = issue("Intel SGX TCB Signing of tests", machine.tcb_signer.key, root, ca=False)
    return replace(machine, root_ca=root, tcb_signer=signer)


def test_all_chains_end_at_one_root() -> None:
    """Collateral under another root than the quote's is refused, though each chain holds."""
    machine = TdxMachine.create()
    collateral = _under_another_root(machine).collateral(NOW)
    assert "chain" in codes(machine.evidence(DATA, NOW, collateral=collateral))


def test_an_expired_tcb_signer_says_so() -> None:
    """The chain of the TCB signer is judged here: dcap-qvl would not say what is wrong with it."""
    machine = TdxMachine.create()
    expired = issue(
        "Intel SGX TCB Signing of tests",
        machine.tcb_signer.key,
        machine.root_ca,
        ca=False,
        valid=(FROM, NOW - 1),
    )
    assert codes(replace(machine, tcb_signer=expired).evidence(DATA, NOW)) == ["expired"]


def test_a_root_that_did_not_sign_itself_is_none() -> None:
    """A certificate of the root's key by another key stands at no chain's end."""
    machine = TdxMachine.create()
    other = issue("Intel SGX Root CA of tests", machine.pck_ca.key, None, ca=True)
    root = issue("Intel SGX Root CA of tests", machine.root_ca.key, other, ca=True)
    odd = replace(machine, root_ca=root)
    assert set(codes(odd.evidence(DATA, NOW))) == {"chain"}


def test_the_pck_crl_is_of_the_quotes_ca() -> None:
    """A PCK CRL by another CA of the same root says nothing of this platform."""
    machine = TdxMachine.create()
    key = ec.generate_private_key(ec.SECP256R1())
    ca = issue("Intel SGX PCK Processor CA of tests", key, machine.root_ca, ca=True)
    other = json.loads(replace(machine, pck_ca=ca).collateral(NOW))
    own = json.loads(machine.collateral(NOW))
    for part in ("pck_crl", "pck_crl_issuer_chain"):
        collateral = json.dumps({**own, part: other[part]})
        assert codes(machine.evidence(DATA, NOW, collateral=collateral)) == ["collateral"]


@pytest.mark.parametrize("at", [FROM - 1, 2**40])
def test_the_pck_chain_is_judged_without_collateral(at: int) -> None:
    """Also without collateral, a chain out of its validity is said to be."""
    found = codes(TdxMachine.create().evidence(DATA, NOW, collateral=None), at)
    assert set(found) == {"collateral", "not_yet_valid" if at < NOW else "expired"}


def test_sgx_quotes_are_refused() -> None:
    """A quote of an SGX enclave is no evidence of a confidential VM."""
    quote = TdxMachine.create().quote(DATA)
    for header in (struct.pack("<HHI", 3, 2, 0), struct.pack("<HHI", 4, 2, 0)):
        with pytest.raises(UnreadableError, match="SGX"):
            tdx.encode_evidence(header + quote[8:], None)


def test_bodies_of_other_types_are_refused() -> None:
    """Version 5 can carry bodies that this verifier does not know."""
    quote = TdxMachine.create(5).quote(DATA)
    for kind, size in ((1, 384), (2, 648), (3, 584), (4, 648)):
        with pytest.raises(UnreadableError):
            tdx.encode_evidence(quote[:48] + struct.pack("<HI", kind, size) + quote[54:], None)


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_cut_anywhere_is_unreadable(version: int) -> None:
    """Cut after any number of bytes, a quote is unreadable."""
    quote = TdxMachine.create(version).quote(DATA)
    for size in range(len(quote)):
        with pytest.raises(UnreadableError):
            appraise(encode(quote[: size or 1], None))


def test_every_byte_of_a_version_5_quote_counts() -> None:
    """No bit of a quote with a TD report of 1.5 flips unnoticed."""
    machine = TdxMachine.create(5)
    collateral = machine.collateral(NOW)
    for changed in flipped(machine.quote(DATA)):
        assert not holds(encode(changed, collateral))


def test_a_root_with_two_names_never_reaches_the_library() -> None:
    """Issuer and subject of a root that differ end dcap-qvl's process; here they are a problem."""
    machine = TdxMachine.create()
    der = machine.root_ca.der
    subject = der.rindex(b"Intel SGX Root CA")
    odd = x509.load_der_x509_certificate(der[:subject] + b"Z" + der[subject + 1 :])
    root = replace(machine.root_ca, certificate=odd)
    assert "chain" in codes(replace(machine, root_ca=root).evidence(DATA, NOW))


@lru_cache
def parts(version: int) -> tuple[bytes, dict[str, Any]]:
    """A quote and its collateral, the same in each example."""
    machine = TdxMachine.create(version)
    return machine.quote(DATA), json.loads(machine.collateral(NOW))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), st.text(max_size=100))
def test_arbitrary_bytes_are_unreadable(data: bytes, text: str) -> None:
    """Bytes that are no evidence, and evidence with such parts, raise `UnreadableError` alone."""
    quote = TdxMachine.create().quote(DATA)
    for evidence in (data, encode(data, text), encode(quote, text or "{}"), encode(data, None)):
        with pytest.raises(UnreadableError):
            appraise(evidence)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_changed_evidence_never_passes_and_never_breaks(data: st.DataObject) -> None:
    """Bytes cut out of or put into any part of evidence give problems or `UnreadableError`."""
    quote, collateral = parts(data.draw(st.sampled_from([4, 5])))
    name = data.draw(st.sampled_from(["quote", *SIGNED_PARTS, *CRLS, *CHAINS]))
    part = quote if name == "quote" else collateral[name].encode()
    at, cut = data.draw(st.integers(0, len(part))), data.draw(st.integers(0, 8))
    put = data.draw(st.binary(max_size=8))
    changed = part[:at] + put + part[at + cut :]
    if name == "quote":
        quote = changed
    else:
        collateral = {**collateral, name: changed.decode("latin-1")}
    # A chain says the same without the newline at its very end.
    same = changed == part or (name in CHAINS and changed + b"\n" == part)
    assert same or not holds(encode(quote, json.dumps(collateral)))
