"""The machines of the proofs' tests, which sign like their vendors', for tests of the runtime."""

from __future__ import annotations

import sys
from pathlib import Path

_PROOFS = str(Path(__file__).parents[1] / "proofs")
if _PROOFS not in sys.path:
    # Tests of proofs import what they share by its own name, as pytest puts their folder there.
    sys.path.append(_PROOFS)

from gpu_machine import GpuMachine  # noqa: E402
from snp_machine import SnpMachine  # noqa: E402
from tdx_machine import TdxMachine  # noqa: E402

__all__ = ["GpuMachine", "SnpMachine", "TdxMachine"]
