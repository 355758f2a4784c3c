"""Evidence of Intel TDX: a DCAP quote, and Intel's collateral to judge it with.

`["sottovoce-tdx-v1", quote, collateral or null]`: the quote is of version 4 or 5 and ends where
its lengths say; the collateral is the JSON of dcap-qvl's `QuoteCollateralV3`. dcap-qvl verifies
the quote. What it leaves out is done here: that every certificate and CRL is whole and of one
root, that no byte of the quote is without a signature, and when a TCB went out of date. Sources:
Intel TDX DCAP Quoting Library API (quote formats), Intel PCS API v4 (collateral), Intel TDX
Module Base Architecture Specification (TD attributes).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dcap_qvl  # type: ignore[import-untyped]  # its stubs lie beside it without py.typed
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proofs import cbor
from proofs.errors import UnreadableError
from proofs.evidence.base import MAX_EVIDENCE, Collateral, CpuAppraisal, Problem, Tcb
from proofs.evidence.certificates import chain_problems, fingerprint, load_pem_chain
from proofs.evidence.revocation import crl_problems, load_crl
from proofs.evidence.tdx_refusals import REVOKED_TCB, refusal

KIND = "tdx"
ROOTS = frozenset(
    {
        # Intel SGX Root CA, which is TDX's too.
        bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"),
    }
)
"""SHA-256 of Intel's root certificate in DER."""

_LABEL = "sottovoce-tdx-v1"
_MAX_COLLATERAL = 192 * 1024
_MAX_TIME = 2**40  # far beyond every validity; what dcap-qvl takes is unsigned
_HEADER = 48
_TEE_TDX = 0x81
_V4, _V5 = 4, 5
_BODY_SIZES = {2: 584, 3: 648}  # TD 1.0 and TD 1.5, by the body type of quote version 5
_SIGNATURE = 64  # ECDSA with P-256, as r and s
_SIGNATURE_AND_KEY = 128
_QE_REPORT_AND_SIGNATURE = 448
_QE_CERTIFICATION, _PCK_CHAIN = 6, 5
_DEBUG = 0x01
_OUT_OF_DATE = frozenset({"OutOfDate", "OutOfDateConfigurationNeeded"})


def encode_evidence(quote: bytes, collateral: str | None) -> bytes:
    """Evidence from what the kernel and Intel's Provisioning Certification Service give.

    Args:
        quote: The quote; zeros after its end, as buffers of a fixed size have, are left out.
        collateral: JSON as `dcap_qvl.QuoteCollateralV3.to_json` writes it, or None.

    Raises:
        UnreadableError: No TDX quote.
    """
    end = _end(quote)
    if any(quote[end:]):
        raise UnreadableError("Something follows the TDX quote. Give the quote alone.")
    return cbor.encode([_LABEL, quote[:end], collateral])


@dataclass(frozen=True, slots=True)
class _Quote:
    """A quote, read but not verified; `chain` is PCK, PCK CA and root."""

    raw: bytes
    version: int
    report: Any  # dcap_qvl.TdReport10, or TdReport15 which adds to it
    pck: Any
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class _Collateral:
    parsed: Any
    tcb_chain: tuple[x509.Certificate, ...]
    qe_chain: tuple[x509.Certificate, ...]
    crl_chain: tuple[x509.Certificate, ...]
    root_crl: x509.CertificateRevocationList
    pck_crl: x509.CertificateRevocationList


def _body(quote: bytes) -> int:
    """Where the body ends and the signature data begin; raises `UnreadableError`."""
    if len(quote) < _HEADER + 6:
        raise UnreadableError(f"A TDX quote has more than {len(quote)} bytes. It was cut.")
    version, _, tee = struct.unpack_from("<HHI", quote)
    if version not in (_V4, _V5) or tee != _TEE_TDX:
        raise UnreadableError(
            "This is no TDX quote of version 4 or 5. Quotes of SGX enclaves are none: "
            "the enclave here is a whole confidential VM."
        )
    if version == _V4:
        return _HEADER + _BODY_SIZES[2]
    kind, stated = struct.unpack_from("<HI", quote, _HEADER)
    size = _BODY_SIZES.get(kind)
    if size is None or size != stated:
        raise UnreadableError(
            f"The TDX quote has a body of type {kind} with {stated} bytes, neither TD 1.0 nor 1.5. "
            "It is damaged or newer than this verifier."
        )
    return _HEADER + 6 + size


def _end(quote: bytes) -> int:
    """Where the quote ends; raises `UnreadableError`."""
    start = _body(quote)
    size = int.from_bytes(quote[start : start + 4], "little")
    if len(quote) < start + 4 + size:
        raise UnreadableError(f"The TDX quote was cut at {len(quote)} bytes. Get it again.")
    return start + 4 + size


def _pem(text: bytes, what: str, length: int) -> tuple[x509.Certificate, ...]:
    """Exactly `length` certificates in the one way to write them."""
    chain = load_pem_chain(text, what, length)
    written = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    if len(chain) != length or text.removesuffix(b"\n") + b"\n" != written:
        raise UnreadableError(f"{what} should be {length} certificates in PEM. Get it again.")
    return chain


def _certification(quote: bytes) -> bytes:
    """The PCK chain in PEM; every byte before it is signed or a length that must fit."""
    at = _body(quote) + 4 + _SIGNATURE_AND_KEY
    try:
        outer, outer_size = struct.unpack_from("<HI", quote, at)
        at += 6
        fits = outer == _QE_CERTIFICATION and at + outer_size == len(quote)
        at += _QE_REPORT_AND_SIGNATURE
        (authentication,) = struct.unpack_from("<H", quote, at)
        at += 2 + authentication
        inner, inner_size = struct.unpack_from("<HI", quote, at)
    except struct.error as error:
        raise UnreadableError("The TDX quote's signature was cut. Get it again.") from error
    at += 6
    if not fits or inner != _PCK_CHAIN or at + inner_size != len(quote):
        raise UnreadableError(
            "The TDX quote does not carry its PCK certificate chain (certification data of type "
            "5 in type 6), or something beside it. Have the platform's quoting service add it."
        )
    return quote[at:].removesuffix(b"\x00")


def _read_quote(quote: bytes) -> _Quote:
    """Take a quote apart; raises `UnreadableError`."""
    if _end(quote) != len(quote):
        raise UnreadableError("Something follows the TDX quote. Encode it again.")
    chain = _pem(_certification(quote), "the PCK certificate chain", 3)
    try:
        parsed = dcap_qvl.parse_quote(quote)
        pck = parsed.pck_extension()
    except ValueError as error:
        raise UnreadableError("The TDX quote is damaged. Get it again.") from error
    if pck is None or not pck.ppid:
        raise UnreadableError("The PCK certificate does not say of which platform it is.")
    return _Quote(quote, parsed.header.version, parsed.report, pck, chain)


def _read_collateral(text: str, quote: _Quote) -> _Collateral:
    """Take collateral apart; raises `UnreadableError`."""
    try:
        parsed = dcap_qvl.QuoteCollateralV3.from_json(text)
        # Nothing beside what the library takes, and nothing twice.
        said, taken = json.loads(text), json.loads(parsed.to_json())
    except (ValueError, RecursionError) as error:
        raise UnreadableError("The TDX collateral is not the JSON of one. Get it again.") from error
    signatures = (bytes(parsed.tcb_info_signature), bytes(parsed.qe_identity_signature))
    if any(len(signature) != _SIGNATURE for signature in signatures):
        raise UnreadableError("A signature in the TDX collateral was cut. Get it again.")
    given = (taken.get("pck_certificate_chain") or "").encode().removesuffix(b"\x00")
    if said != taken or (given and _pem(given, "the PCK chain", 3) != quote.chain):
        raise UnreadableError("The TDX collateral holds something that does not belong there.")
    return _Collateral(
        parsed,
        _pem(parsed.tcb_info_issuer_chain.encode(), "the TCB info's chain", 2),
        _pem(parsed.qe_identity_issuer_chain.encode(), "the QE identity's chain", 2),
        _pem(parsed.pck_crl_issuer_chain.encode(), "the PCK CRL's chain", 2),
        load_crl(bytes(parsed.root_ca_crl), "Intel's root CRL"),
        load_crl(bytes(parsed.pck_crl), "Intel's PCK CRL"),
    )


def _chains_problems(quote: _Quote, collateral: _Collateral, at: int) -> list[Problem]:
    """That all chains and CRLs end at the root of the quote's chain, and hold at `at`."""
    pck, ca, root = quote.chain
    problems = []
    if collateral.crl_chain != (ca, root):
        problems.append(Problem("collateral", "the PCK CRL is not of this quote's PCK CA"))
    signers = dict.fromkeys((collateral.tcb_chain, collateral.qe_chain))
    for chain in signers:
        if chain[-1] != root:
            problems.append(Problem("chain", "the collateral ends at another root than the quote"))
        problems += chain_problems(chain, at, "the TCB signing chain")
    issued = [ca, root, *(chain[0] for chain in signers)]
    problems += crl_problems(collateral.root_crl, root, issued, at, "Intel's root CRL")
    problems += crl_problems(collateral.pck_crl, ca, [pck], at, "Intel's PCK CRL")
    return problems


def _seconds(date: str) -> int:
    return int(datetime.strptime(date, "%Y-%m-%dT%H:%M:%S%z").timestamp())


def _recovery(levels: Iterable[Mapping[str, Any]], matched: Mapping[str, Any]) -> list[int]:
    """Unix seconds of the first TCB recovery that a platform at `matched` lacks.

    Intel dates a level by the recovery that brought it. A level falls out of date by the next
    recovery after its own, not by the newest; where nothing newer is listed, by its own date.
    """
    if matched["tcbStatus"] not in _OUT_OF_DATE:
        return []
    own = _seconds(matched["tcbDate"])
    later = [date for level in levels if (date := _seconds(level["tcbDate"])) > own]
    return [min(later, default=own)]


def _svns(tcb: Mapping[str, Any]) -> tuple[object, ...]:
    """What tells one TCB level from another."""
    parts = (tcb.get(name, ()) for name in ("sgxtcbcomponents", "tdxtcbcomponents"))
    return tcb["pcesvn"], *([component["svn"] for component in part] for part in parts)


def _current_until(claims: Mapping[str, Any], collateral: Any, module: bytes) -> int | None:
    """The earliest of the recoveries that platform, TDX module and quoting enclave lack.

    dcap-qvl says which level the platform matched, but folds the module's status and date into it.

    Raises:
        KeyError, TypeError, ValueError: A level that dcap-qvl did not read says something odd.
    """
    tcb_info, qe_identity = json.loads(collateral.tcb_info), json.loads(collateral.qe_identity)
    matched = _svns(claims["platform"]["tcb_level"]["tcb"])
    dates = _recovery(qe_identity["tcbLevels"], claims["qe"]["tcb_level"])
    for level in tcb_info["tcbLevels"]:
        if _svns(level["tcb"]) == matched:
            dates += _recovery(tcb_info["tcbLevels"], level)
    for identity in tcb_info.get("tdxModuleIdentities") or ():
        if identity["id"].upper() == f"TDX_{module[1]:02X}":
            levels = identity["tcbLevels"]
            reached = [level for level in levels if level["tcb"]["isvsvn"] <= module[0]]
            if reached:
                dates += _recovery(levels, max(reached, key=lambda each: each["tcb"]["isvsvn"]))
    return min(dates, default=None)


def _tcb(
    quote: _Quote,
    claims: Mapping[str, Any] | None,
    collateral: _Collateral | None,
    problems: Iterable[Problem],
) -> Tcb:
    svn = bytes(quote.report.tee_tcb_svn)
    numbers = {
        "microcode": svn[2],
        "module": svn[1] << 8 | svn[0],
        "pce": quote.pck.pce_svn,
    }
    if claims is None or collateral is None:
        revoked = REVOKED_TCB in problems
        return Tcb(tuple(sorted(numbers.items())), "Revoked" if revoked else "")
    numbers["evaluation"] = min(
        claims["tcb"]["eval_data_number"], claims["qe"]["tcb_eval_data_number"]
    )
    numbers["qe"] = claims["qe"]["report"]["isv_svn"]
    try:
        current_until = _current_until(claims, collateral.parsed, svn)
    except (KeyError, TypeError, ValueError):
        current_until = None  # nobody says: no grace
    return Tcb(
        tuple(sorted(numbers.items())),
        claims["tcb"]["status"],
        tuple(claims["tcb"]["advisory_ids"]),
        current_until,
    )


def _facts(quote: _Quote, claims: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """What else quote and certificate say, for people."""
    svn = bytes(quote.report.tee_tcb_svn)
    facts = {
        "platform line (FMSPC)": bytes(quote.pck.fmspc).hex(),
        "quote version": str(quote.version),
        "TD attributes": bytes(quote.report.td_attributes).hex(),
        "TDX module": f"{svn[1]}.{svn[0]:02}",
        "XFAM": bytes(quote.report.xfam).hex(),
    }
    if claims is not None:
        pck = claims["platform"]["pck"]
        words = {"True": "yes", "False": "no"}
        facts["keys cached by Intel"] = words.get(pck["cached_keys"], "not said")
        facts["packages can be added"] = words.get(pck["dynamic_platform"], "not said")
        facts["SMT enabled"] = words.get(pck["smt_enabled"], "not said")
    return tuple(sorted(facts.items()))


def _verify(
    quote: _Quote, collateral: _Collateral, at: int
) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """dcap-qvl's claims, or None and why there are none.

    Only for chains and CRLs that hold: a failed assertion in the library ends the process.
    """
    root = quote.chain[-1].public_bytes(Encoding.DER)
    when = min(max(at, 0), _MAX_TIME)
    try:
        claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(
            quote.raw, collateral.parsed, when, dcap_qvl.QuotePolicy.claims_only(when)
        )
        said: Mapping[str, Any] = json.loads(claims.to_json())
    except (ValueError, OverflowError) as error:
        return None, [refusal(error)]
    return said, []


def appraise_cpu(cpu: bytes, at: int, collateral: Collateral) -> CpuAppraisal:
    """Verify a TDX quote with its collateral, and read what it says.

    (1) The PCK chain in the quote leads to a root that signs itself, all valid at `at`.
    (2) TCB info, QE identity and CRLs end at the same root, hold and are in force at `at`; no
        certificate is on a CRL.
    (3) Where all of that holds, dcap-qvl verifies the quote under that root: quoting enclave,
        attestation key, signature over header and TD report, TDX module, TCB levels, attributes.

    A TD in debug mode, with a service TD, or that can be migrated has a problem whatever the
    policy: dcap-qvl gives no claims for it. `platform_id` is SHA-256 of the PPID. TCB numbers:
    `module` (major version * 256 + minor, of the TDX module that started the TD), `microcode`
    (late-loaded), `pce`, and where the quote verifies `qe` and `evaluation` (Intel's TCB
    evaluation data number, the lower of the two in the collateral).

    Args:
        cpu: Evidence, as `encode_evidence` makes it.
        at: Unix seconds at which to judge.
        collateral: Its `tdx` replaces the evidence's own.

    Raises:
        UnreadableError: Evidence or collateral of another format.
    """
    items = cbor.as_array(
        cbor.decode(cpu, what="the TDX evidence", limit=MAX_EVIDENCE), "the TDX evidence", 3
    )
    cbor.check_label(items[0], _LABEL, "the TDX evidence")
    quote = _read_quote(cbor.as_bytes(items[1], "the TDX quote"))
    text = collateral.tdx or items[2]
    problems = chain_problems(quote.chain, at, "the PCK chain")  # (1)
    claims = read = None
    if text is None:
        problems.append(
            Problem("collateral", "no collateral of Intel's came along, and none was given")
        )
    else:
        read = _read_collateral(cbor.as_text(text, "the collateral", _MAX_COLLATERAL), quote)
        problems += _chains_problems(quote, read, at)  # (2)
        if not problems:
            claims, problems = _verify(quote, read, at)  # (3)
    report = quote.report
    tcb = _tcb(quote, claims, read, problems)
    return CpuAppraisal(
        root=fingerprint(quote.chain[-1]),
        platform_id=hashlib.sha256(bytes(quote.pck.ppid)).digest(),
        measurements=(
            ("mrconfigid", bytes(report.mr_config_id)),
            ("mrowner", bytes(report.mr_owner)),
            ("mrownerconfig", bytes(report.mr_owner_config)),
            ("mrtd", bytes(report.mr_td)),
            ("rtmr0", bytes(report.rt_mr0)),
            ("rtmr1", bytes(report.rt_mr1)),
            ("rtmr2", bytes(report.rt_mr2)),
            ("rtmr3", bytes(report.rt_mr3)),
        ),
        report_data=bytes(report.report_data),
        tcb=tcb,
        debug=bool(bytes(report.td_attributes)[0] & _DEBUG),
        collected_at=None,
        problems=tuple(problems),
        facts=_facts(quote, claims),
    )
