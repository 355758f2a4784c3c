"""Every fuzz target by name, and the corpus that is kept for each."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fuzz_bhttp
import fuzz_memory
import fuzz_mux
import fuzz_ohttp
import fuzz_personas
import fuzz_proofs
import fuzz_sse
import fuzz_wire
from fuzz_support import Target

TARGETS: dict[str, Target] = {
    **fuzz_bhttp.TARGETS,
    **fuzz_sse.TARGETS,
    **fuzz_ohttp.TARGETS,
    **fuzz_mux.TARGETS,
    **fuzz_wire.TARGETS,
    **fuzz_proofs.TARGETS,
    **fuzz_memory.TARGETS,
    **fuzz_personas.TARGETS,
}

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
