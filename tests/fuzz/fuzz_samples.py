"""Makes the samples: signed things that no two runs would make alike (`--samples`).

Their keys are thrown away. Targets change these samples, and a change must be the same change in
every run, or nothing that was found could be found again.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.serialization import Encoding
from fuzz_evidence import DATA, NONCE, NOW
from fuzz_log import COSIGNERS, LOG
from fuzz_support import SAMPLES
from gpu_machine import (
    DRIVER,
    VBIOS,
    Authority,
    GpuMachine,
    certify,
    delegate,
    exchange,
    fwid_extension,
    measurement,
    sign,
    sign_rim,
)
from gpu_machine import answer as ocsp_answer
from snp_machine import SnpMachine
from tdx_machine import TdxMachine

from proofs.checkpoint import Checkpoint
from proofs.evidence.nvidia import Device, encode_evidence
from proofs.note import Note

_DRIVER_INDEX, _VBIOS_INDEX = 7, 0


def write_samples() -> list[str]:
    """Make all of them anew; their names."""
    SAMPLES.mkdir(exist_ok=True)
    made = {
        "cosigned": _cosigned(),
        "nvidia": _nvidia(),
        "snp": SnpMachine.create().evidence(DATA, NOW),
        "tdx": TdxMachine.create().evidence(DATA, NOW),
    }
    for name, data in made.items():
        (SAMPLES / name).write_bytes(data)
    return sorted(made)


def _cosigned() -> bytes:
    """A checkpoint with cosignatures of both types; those by ML-DSA-44 are random."""
    note = LOG.sign(Checkpoint(LOG.name, 3, b"r" * 32, ("extension",)).format())
    lines = tuple(one.cosign(note, NOW) for one in COSIGNERS)
    return Note(note.text, note.signatures + lines).format().encode()


def _nvidia() -> bytes:
    """Evidence as short as it can be: a chain of three, a measurement a RIM."""
    fwid = bytes(range(48))
    root = certify("Root", None)
    device = certify("GH100", root)
    extension = fwid_extension("HOPPER", device, fwid)
    leaf = certify("Leaf", device, ca=False, extensions=[(extension, False)])
    rim_root = certify("RIM root", None)
    signer = certify("RIM signer", rim_root, ca=False)
    machine = GpuMachine("HOPPER", (root,), ((device, leaf),), (signer, rim_root), fwid)
    chain = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in machine.chain(0))
    device_answer, _ = machine.responses(NOW)
    return encode_evidence(
        NOW,
        [Device("HOPPER", chain, _report(leaf, fwid))],
        [
            sign_rim(version, {index: [measurement(index, version)]}, machine.rim_chain)
            for index, version in ((_DRIVER_INDEX, DRIVER), (_VBIOS_INDEX, VBIOS))
        ],
        [device_answer, ocsp_answer(signer, rim_root, NOW, responder=delegate(rim_root))],
    )


def _report(leaf: Authority, fwid: bytes) -> bytes:
    numbers = bytes.fromhex(VBIOS.replace(".", ""))
    blocks = {
        index + 1: measurement(index, version)
        for index, version in ((_VBIOS_INDEX, VBIOS), (_DRIVER_INDEX, DRIVER))
    }
    fields = [
        (6, numbers[3::-1] + numbers[4:] + bytes(3)),
        (3, DRIVER.encode() + b"\x00"),
        (11, b"\xaa"),
        (20, fwid),
        (34, struct.pack("<H", 1)),
        (36, struct.pack("<H", 1)),
    ]
    return sign(exchange(NONCE, blocks, fields), leaf.key)
