"""NVIDIA's signed reference measurements: RIMs, which are SWID tags (ISO/IEC 19770-2) in XML.

A RIM lists the measurements that one version of the driver, or of the VBIOS, may have. It carries
an enveloped XML signature (W3C XML-DSig, ECDSA P-384 with SHA-384) and the signer's whole chain up
to NVIDIA's root for RIMs. What comes out of `signed_content` was read from the very bytes that the
signature covers, never from the file.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography import x509
from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.verifier import SignatureConfiguration, XMLVerifier

from proofs.errors import UnreadableError
from proofs.evidence.certificates import load_der

MAX_RIM = 64 * 1024
MAX_RIMS = 32
_MAX_CHAIN = 8
_MAX_MEASUREMENTS = 256
_MAX_ALTERNATIVES = 64
# Canonical XML sorts all namespaces in scope at every element: a thousand take minutes.
_MAX_NAMESPACES = 16

_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_VERSION = re.compile(r"[0-9A-Za-z._-]{1,32}")
_SHA384_HEX = re.compile(r"[0-9a-fA-F]{96}")


@dataclass(frozen=True, slots=True)
class RimFile:
    """A RIM that was read and not yet verified.

    Attributes:
        version: The version that it claims to be for; only good for passing over other RIMs.
        chain: The signer's certificates, leaf first, root last.
        data: The whole file.
    """

    version: str
    chain: tuple[x509.Certificate, ...]
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rim:
    """What a RIM's signature covers.

    Attributes:
        version: Of the driver or the VBIOS, as the report writes it. The tag does not say which
            of the two; their versions look unlike.
        product: The chip, such as `GH100`.
        measurements: By index from 0, the values of which one must be there; SHA-384, 48 bytes
            each. Measurements that the RIM marks inactive are left out.
    """

    version: str
    product: str
    measurements: Mapping[int, tuple[bytes, ...]] = field(repr=False)


def _parser() -> etree.XMLParser:
    # The encoding is ours, so that a declared one cannot hide a document type from read_rim.
    return etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )


def _attribute(element: etree._Element, name: str, pattern: re.Pattern[str], what: str) -> str:
    value = str(element.get(name, ""))
    if not pattern.fullmatch(value):
        raise UnreadableError(f"{what} has no readable {name.rpartition('}')[2]}. Get it again.")
    return value


def _meta(root: etree._Element, what: str) -> etree._Element:
    found = root.findall(f"{_SWID}Meta")
    if root.tag != f"{_SWID}SoftwareIdentity" or len(found) != 1:
        raise UnreadableError(f"{what} is no SWID tag with one Meta element. Get it again.")
    return found[0]


def read_rim(data: bytes, what: str) -> RimFile:
    """Read a RIM without trusting it.

    Args:
        data: XML in UTF-8, without a document type, at most `MAX_RIM` bytes.
        what: The thing's name, for the error.

    Raises:
        UnreadableError: Too long, not such XML, no SWID tag, or not one signature with its chain.
    """
    if len(data) > MAX_RIM:
        raise UnreadableError(f"{what} has {len(data)} bytes, more than the {MAX_RIM} of a RIM.")
    if b"<!DOCTYPE" in data:
        raise UnreadableError(f"{what} has a document type, which no RIM needs. Do not use it.")
    if data.count(b"xmlns") > _MAX_NAMESPACES:
        raise UnreadableError(f"{what} declares more than {_MAX_NAMESPACES} namespaces. Refuse it.")
    try:
        root = etree.fromstring(data, _parser())
    except (etree.LxmlError, ValueError) as error:
        raise UnreadableError(f"{what} is not well-formed XML. Get it again.") from error
    version = _attribute(_meta(root, what), "colloquialVersion", _VERSION, what)
    if len(list(root.iter(f"{_DSIG}Signature"))) != 1:
        raise UnreadableError(f"{what} does not have one signature. Get it again.")
    path = f"{_DSIG}Signature/{_DSIG}KeyInfo/{_DSIG}X509Data/{_DSIG}X509Certificate"
    found = root.findall(path)
    if not 1 < len(found) <= _MAX_CHAIN:
        raise UnreadableError(f"{what} does not carry its signer's chain. Get it again.")
    chain = []
    for certificate in found:
        try:
            text = "".join((certificate.text or "").split())
            der = binascii.a2b_base64(text, strict_mode=True)
        except ValueError as error:
            raise UnreadableError(f"{what}'s chain is not in base64. Get it again.") from error
        chain.append(load_der(der, f"{what}'s certificate"))
    return RimFile(version, tuple(chain), data)


def signed_content(file: RimFile, what: str) -> Rim | None:
    """Read what the leaf's key signed, or None where its signature does not hold.

    The chain and its validity are for the caller to judge. Only the one form of signature that
    NVIDIA uses is taken: enveloped, child of the root, one reference, SHA-384 throughout.

    Raises:
        UnreadableError: Signed, but not a list of measurements as this version knows it.
    """
    leaf = file.chain[0]
    form = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        # Validity is judged with the chain, at the time of the caller; here it must not read
        # the clock.
        verification_time=leaf.not_valid_before_utc,
    )
    try:
        result = XMLVerifier().verify(
            file.data, x509_cert=leaf, parser=_parser(), expect_config=form
        )
    # It raises whatever lxml, cryptography and its own assumptions on the tree raise.
    except Exception:
        return None
    root = None if isinstance(result, list) else result.signed_xml
    if root is None:
        return None
    meta = _meta(root, what)
    return Rim(
        version=_attribute(meta, "colloquialVersion", _VERSION, what),
        product=_attribute(meta, "product", _VERSION, what),
        measurements=MappingProxyType(_measurements(root, what)),
    )


def _measurements(root: etree._Element, what: str) -> dict[int, tuple[bytes, ...]]:
    """Active measurements by index; each has as many values as it announces, of SHA-384."""
    resources = root.findall(f"{_SWID}Payload/{_SWID}Resource[@type='Measurement']")
    if not resources or len(resources) > _MAX_MEASUREMENTS:
        raise UnreadableError(f"{what} has {len(resources)} measurements. Get it again.")
    number = re.compile(r"0|[1-9][0-9]{0,2}")
    measurements: dict[int, tuple[bytes, ...]] = {}
    for resource in resources:
        index = int(_attribute(resource, "index", number, what))
        alternatives = int(_attribute(resource, "alternatives", number, what))
        active = _attribute(resource, "active", re.compile("True|False"), what) == "True"
        _attribute(resource, "size", re.compile("48"), what)
        if index in measurements or not 0 < alternatives <= _MAX_ALTERNATIVES:
            raise UnreadableError(f"{what} has a measurement {index} that is none. Get it again.")
        values = tuple(
            bytes.fromhex(_attribute(resource, f"{_HASH}{turn}", _SHA384_HEX, what))
            for turn in range(alternatives)
        )
        if active:
            measurements[index] = values
    if not measurements:
        raise UnreadableError(f"{what} has no active measurement, so it would match anything.")
    return measurements
