"""A GPU's measurements held against signed reference values (RIMs).

NVIDIA publishes one RIM per version of the driver and one per version of the VBIOS, with different
indices. A device is measured where both are at hand, hold, and agree with its report. One alone
says nothing about the other half, so it is not enough; it can still refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from proofs.evidence.base import Problem
from proofs.evidence.certificates import chain_problems, fingerprint
from proofs.evidence.nvidia_rim import Rim, RimFile, signed_content
from proofs.evidence.nvidia_spdm import Report
from proofs.evidence.ocsp import Lookup

# The first video decoder's; NVIDIA's verifiers pass over it where the report says that it is off.
_NVDEC0_INDEX = 35
_DRIVER, _VBIOS = "driver", "VBIOS"


@dataclass(frozen=True, slots=True)
class Measured:
    """How a device's measurements compare.

    Attributes:
        holds: Whether all are as both RIMs say; None where that is not known of a part.
        missing: The parts that have no RIM which holds, such as `driver`.
        problems: Codes `measurement` for other values than a RIM's, and `rim_signature`,
            `rim_chain`, `rim_expired` and the like for the only RIM of a part, where it fails.
    """

    holds: bool | None
    missing: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A RIM, its signature and chain judged."""

    rim: Rim | None
    root: bytes
    looked_up: bool
    problems: tuple[Problem, ...] = field(default=())


def _others(report: Report, rim: Rim) -> list[int]:
    """Indices at which the report has none of the values that the RIM names."""
    return [
        index
        for index, values in sorted(rim.measurements.items())
        # SPDM counts measurements from 1, RIMs from 0.
        if report.measurements.get(index + 1) not in values
        and not (index == _NVDEC0_INDEX and report.nvdec0_off)
    ]


class References:
    """The RIMs at hand, each judged at most once and only where a device needs it."""

    def __init__(self, files: Sequence[RimFile], at: int, lookup: Lookup) -> None:
        self._files = files
        self._at = at
        self._lookup = lookup
        self._judged: dict[int, _Judged] = {}
        self._used: dict[int, _Judged] = {}
        self.alternatives = False
        """Whether there were two RIMs for one version that a device has."""

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Fingerprints of the roots of the RIMs that were used, sorted."""
        return tuple(sorted({judged.root for judged in self._used.values()}))

    @property
    def looked_up(self) -> bool:
        """Whether revocation of every RIM that was used could be looked up."""
        return all(judged.looked_up for judged in self._used.values())

    def measure(self, report: Report, chip: str, name: str) -> Measured:
        """Hold one device's report against the RIMs for exactly its versions.

        Args:
            report: Its report.
            chip: What the names of its generation's chips start with.
            name: The device's name, for the problems.
        """
        missing: list[str] = []
        problems: list[Problem] = []
        claimed: dict[int, str] = {}
        mismatch = False
        for part, version in ((_DRIVER, report.driver), (_VBIOS, report.vbios)):
            rims, failed = self._find(version, report.chip or chip)
            if not rims:
                missing.append(part)
                problems.extend(failed)
                continue
            compared = {number: _others(report, rim) for number, rim in rims.items()}
            best = min(compared, key=lambda number: len(compared[number]))
            self._used[best] = self._judged[best]
            others = compared[best]
            twice = [index for index in rims[best].measurements if index in claimed]
            claimed.update(dict.fromkeys(rims[best].measurements, part))
            if others:
                text = f"{name}: measurement {', '.join(map(str, others))} is not what the signed"
                text += f" reference values of {part} {version} say: other software runs on it"
                problems.append(Problem("measurement", text))
            if twice:
                text = f"{name}: both RIMs name measurement {', '.join(map(str, twice))}"
                problems.append(Problem("measurement", text))
            mismatch = mismatch or bool(others or twice)
        holds = False if mismatch else None if missing else True
        return Measured(holds, tuple(missing), tuple(problems))

    def _find(self, version: str, chip: str) -> tuple[dict[int, Rim], list[Problem]]:
        """RIMs that hold for `version` of `chip`, by number; the problems of those that do not."""
        found: dict[int, Rim] = {}
        problems: list[Problem] = []
        named = 0
        for number, file in enumerate(self._files):
            # What the file claims before its signature is judged only serves to pass over others.
            if not version or file.version != version:
                continue
            named += 1
            judged = self._judge(number)
            rim = judged.rim
            if rim is not None and (rim.version != version or not rim.product.startswith(chip)):
                continue
            if rim is None or judged.problems:
                problems.extend(judged.problems)
            else:
                found[number] = rim
        self.alternatives = self.alternatives or named > 1
        return found, problems

    def _judge(self, number: int) -> _Judged:
        if number not in self._judged:
            file, name = self._files[number], f"RIM {number + 1}"
            problems = chain_problems(file.chain, self._at, f"{name}'s chain")
            looked_up, revoked = self._lookup.chain(file.chain, f"{name}'s chain")
            rim = signed_content(file, name)
            if rim is None:
                text = f"{name}'s signature does not hold: it was changed. Get it again"
                problems.append(Problem("signature", text))
            self._judged[number] = _Judged(
                rim,
                fingerprint(file.chain[-1]),
                looked_up,
                tuple(Problem(f"rim_{one.code}", one.text) for one in (*problems, *revoked)),
            )
        return self._judged[number]
