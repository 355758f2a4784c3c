"""HPKE against RFC 9180's vectors, for the suites that OHTTP uses here."""

from __future__ import annotations

import pytest
from vector_files import load

from transport import hpke
from transport.errors import DecryptionError, MessageError, UnknownKeyError
from transport.hpke import PrivateKey, SuiteId, setup_sender


@pytest.mark.parametrize("suite", hpke.SUITES)
def test_rfc_9180_base_mode(suite: SuiteId) -> None:
    """Every base-mode vector of the suite: key derivation, sealing, opening, exporting."""
    vectors = [
        vector
        for vector in load("hpke/rfc9180.json.gz")
        if (vector["mode"], vector["kem_id"], vector["kdf_id"], vector["aead_id"])
        == (0, 0x20, *suite)
    ]
    assert vectors
    for vector in vectors:
        private = PrivateKey.derive(0x20, bytes.fromhex(vector["ikmR"]))
        assert private.public_bytes.hex() == vector["pkRm"]
        info = bytes.fromhex(vector["info"])
        enc, sender = setup_sender(
            0x20, private.public_bytes, suite, info, bytes.fromhex(vector["skEm"])
        )
        assert enc.hex() == vector["enc"]
        recipient = private.recipient(suite, enc, info)
        for message in vector["encryptions"]:
            aad, plain = bytes.fromhex(message["aad"]), bytes.fromhex(message["pt"])
            sealed = sender.seal(plain, aad)
            assert sealed.hex() == message["ct"]
            assert recipient.open(sealed, aad) == plain
        for export in vector["exports"]:
            context = bytes.fromhex(export["exporter_context"])
            for end in (sender, recipient):
                assert end.export(context, export["L"]).hex() == export["exported_value"]


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_points_of_small_order_are_refused(point: bytes) -> None:
    """A public or encapsulated key that would give a known secret is refused at both ends."""
    with pytest.raises(MessageError):
        setup_sender(0x20, point, hpke.SUITES[0], b"")
    with pytest.raises(DecryptionError):
        PrivateKey.derive(0x20, bytes(32)).recipient(hpke.SUITES[0], point, b"")


def test_unknown_suites_are_refused() -> None:
    """What is not in the table is not run."""
    with pytest.raises(UnknownKeyError):
        setup_sender(0x20, bytes(32), SuiteId(1, 2), b"")
    with pytest.raises(UnknownKeyError):
        setup_sender(0x10, bytes(65), hpke.SUITES[0], b"")
