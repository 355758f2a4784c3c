"""Evidence by kind. Adding a kind is one module and one line in a table below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from proofs import cbor
from proofs.errors import UnreadableError
from proofs.evidence import nvidia, simulated, snp, tdx
from proofs.evidence.base import MAX_EVIDENCE, Collateral, CpuAppraisal, GpuAppraisal

CpuAppraiser = Callable[[bytes, int, Collateral], CpuAppraisal]
GpuAppraiser = Callable[[bytes, int, Collateral], GpuAppraisal]

CPU_APPRAISERS: Mapping[str, CpuAppraiser] = MappingProxyType(
    {
        simulated.KIND: simulated.appraise_cpu,
        snp.KIND: snp.appraise_cpu,
        tdx.KIND: tdx.appraise_cpu,
    }
)
"""By the bundle's kind: (evidence, unix seconds at which to judge, newer collateral)."""

GPU_APPRAISERS: Mapping[str, GpuAppraiser] = MappingProxyType(
    {
        nvidia.GPU_LABEL: nvidia.appraise_gpu,
        simulated.GPU_LABEL: simulated.appraise_gpu,
    }
)
"""By the label that GPU evidence starts with; arguments as above."""


def gpu_appraiser(gpu: bytes) -> GpuAppraiser:
    """The appraiser of GPU evidence, by its label.

    Raises:
        UnreadableError: Not GPU evidence, or of a kind that this version does not know.
    """
    value = cbor.decode(gpu, what="the GPU evidence", limit=MAX_EVIDENCE)
    label = value[0] if isinstance(value, list) and value else None
    appraiser = GPU_APPRAISERS.get(label) if isinstance(label, str) else None
    if appraiser is None:
        raise UnreadableError("The GPU evidence is of a kind that this version does not know.")
    return appraiser
