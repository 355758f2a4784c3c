"""Evidence by kind. Adding a kind is one module and one line in the table below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from proofs.claims import Claims
from proofs.evidence import simulated
from proofs.evidence.base import Appraisal, Evidence

Appraiser = Callable[[Evidence, Claims], Appraisal]

APPRAISERS: Mapping[str, Appraiser] = MappingProxyType({simulated.KIND: simulated.appraise})
