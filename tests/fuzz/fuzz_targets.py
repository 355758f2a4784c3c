"""Every fuzz target by name, and the corpus that is kept for each."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fuzz_bhttp
import fuzz_evidence
import fuzz_log
import fuzz_manifests
import fuzz_memory
import fuzz_mux
import fuzz_ohttp
import fuzz_personas
import fuzz_receipts
import fuzz_recognise
import fuzz_signed_evidence
import fuzz_sse
import fuzz_verify
import fuzz_wire
from fuzz_support import Target

_FAMILIES = (
    fuzz_bhttp,
    fuzz_sse,
    fuzz_ohttp,
    fuzz_mux,
    fuzz_wire,
    fuzz_receipts,
    fuzz_log,
    fuzz_verify,
    fuzz_manifests,
    fuzz_recognise,
    fuzz_evidence,
    fuzz_signed_evidence,
    fuzz_memory,
    fuzz_personas,
)

TARGETS: dict[str, Target] = {
    name: target for family in _FAMILIES for name, target in family.TARGETS.items()
}
FAMILIES: dict[str, str] = {
    name: family.__name__ for family in _FAMILIES for name in family.TARGETS
}
"""The module of each target, so that its process imports no more."""

CORPUS = Path(__file__).parent / "corpus"


def kept(name: str) -> list[Path]:
    """The files of a target's kept corpus: seeds, and what once was a finding."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def write_seeds(name: str) -> None:
    """Make the target's seeds anew. Files named `found-...` stay."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("seed-*"):
        path.unlink()
    for data in TARGETS[name].seeds():
        (folder / seed_name(data)).write_bytes(data)


def seed_name(data: bytes) -> str:
    """The file name of a seed, by its content."""
    return f"seed-{hashlib.sha256(data).hexdigest()[:16]}"
