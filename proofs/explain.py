"""A policy in sentences: what passes under it, and where it is weaker than its reader may think."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proofs.evidence import nvidia, snp, tdx
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.policy import Policy

_HARDWARE = {tdx.KIND: "Intel TDX", snp.KIND: "AMD SEV-SNP", SIMULATED: "simulated evidence"}
_MAX_LISTED = 6
_LONG_GRACE_S = 90 * 86400


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy means.

    Attributes:
        sentences: What is accepted, each by itself, in the order in which things are checked.
        warnings: What a careful reader should know: settings for development, checks that are
            off, and lists that are empty so that nothing passes.
    """

    sentences: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The explanation as a JSON object."""
        return {"sentences": list(self.sentences), "warnings": list(self.warnings)}


def explain(policy: Policy) -> Explanation:
    """Say what passes under `policy`."""
    sentences = (
        *_hardware(policy),
        *_software(policy),
        *_tcb(policy),
        *_gpu(policy),
        *_time(policy),
        *_log(policy),
        *_custody(policy),
    )
    return Explanation(sentences, tuple(_warnings(policy)))


def _list(items: Iterable[str], otherwise: str = "none", last: str = "or") -> str:
    listed = list(items)
    if len(listed) > _MAX_LISTED:
        return f"{', '.join(listed[:_MAX_LISTED])} and {len(listed) - _MAX_LISTED} more"
    if len(listed) < 2:
        return listed[0] if listed else otherwise
    return f"{', '.join(listed[:-1])} {last} {listed[-1]}"


def _hex(digests: Iterable[bytes], otherwise: str = "none") -> str:
    return _list((digest.hex()[:16] for digest in digests), otherwise)


def _span(seconds: int) -> str:
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            count = seconds // unit
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{seconds} s"


def _accepted(policy: Policy) -> list[str]:
    return [kind for kind in policy.kinds if policy.accepts_kind(kind)]


def _hardware(policy: Policy) -> Iterator[str]:
    kinds = _accepted(policy)
    yield f"An enclave must attest with {_list((_HARDWARE[one] for one in kinds), 'nothing')}."
    for kind, roots, vendor, theirs in (
        (tdx.KIND, policy.tdx.roots, "Intel", tdx.ROOTS),
        (snp.KIND, policy.snp.roots, "AMD", snp.ROOTS),
    ):
        if kind in kinds:
            whose = f"{vendor}'s own root" if set(roots) == theirs else f"root {_hex(roots)}"
            yield f"Evidence of {_HARDWARE[kind]} must end at {whose}."
    if snp.KIND in kinds:
        yield f"Processors of AMD may be {_list(policy.snp.products, 'none at all')}."
    if SIMULATED in kinds:
        under = _hex(policy.simulated_roots, "any development root")
        yield f"Simulated evidence passes under {under}; no hardware stands behind it."
    yield (
        "A machine in debug mode passes, except under Intel TDX."
        if policy.allow_debug
        else "A machine in debug mode does not pass."
    )


def _software(policy: Policy) -> Iterator[str]:
    if policy.measurements == "any":
        yield "Any software may run: measurements are shown and not judged."
    else:
        count = len(policy.measurements)
        if count:
            sets = "the one set" if count == 1 else f"one of {count} sets"
            yield f"Software passes that measures as {sets} in the policy."
        for one in policy.releases:
            kinds = _list(sorted({each.kind for each in one.sets}), last="and")
            yield (
                f"Release {one.version} ({one.digest.hex()[:16]}) passes as its maker signed it, "
                f"for {kinds}, and only under its own release digest."
            )
        if not count and not policy.releases:
            yield "No measured software may run."
    if policy.revoked_releases:
        yield (
            f"Releases {_hex(policy.revoked_releases)} are revoked: their TCB verdict fails, "
            "whenever they ran."
        )
    if policy.models:
        yield f"The model's manifest must be {_hex(policy.models)}."
    else:
        yield "Any model may answer; the receipt names its manifest."


def _floors(what: str, floors: dict[str, int]) -> Iterator[str]:
    if floors:
        told = _list((f"{name} {floor}" for name, floor in sorted(floors.items())), last="and")
        yield f"{what} must have security versions of at least {told}."


def _tcb(policy: Policy) -> Iterator[str]:
    kinds = _accepted(policy)
    if tdx.KIND in kinds:
        yield f"Intel's word for the level of a TDX machine must be {_list(policy.tdx.statuses)}."
        if policy.grace_s:
            yield f"A level that became out of date passes for {_span(policy.grace_s)} more."
        yield from _floors("Intel TDX", policy.tdx.min_tcb)
    if snp.KIND in kinds:
        yield from _floors("AMD SEV-SNP", policy.snp.min_tcb)
    if SIMULATED in kinds and policy.min_tcb:
        yield from _floors("Simulated evidence", {"svn": policy.min_tcb})
    if policy.refused_advisories:
        yield f"A machine under {_list(policy.refused_advisories)} does not pass."


def _gpu(policy: Policy) -> Iterator[str]:
    gpu = policy.gpu
    count = f"{gpu.min_devices} GPU{'s' if gpu.min_devices > 1 else ''}"
    if not gpu.required:
        yield f"An enclave without a GPU passes; one with GPUs must have {count} or more."
    else:
        yield f"An enclave must have {count} or more."
    if _accepted(policy) == [SIMULATED]:
        return
    whose = "NVIDIA's own root" if set(gpu.roots) == nvidia.ROOTS else f"root {_hex(gpu.roots)}"
    yield f"GPU evidence must end at {whose}, and be made for the enclave's very keys."
    if gpu.confidential:
        yield "Each GPU must say that confidential computing is on."
    if gpu.rims:
        ours = set(gpu.rim_roots) == nvidia.RIM_ROOTS
        signer = "NVIDIA" if ours else f"root {_hex(gpu.rim_roots)}"
        yield f"Each GPU must measure what {signer} signed for its driver and firmware."
    if gpu.revocation:
        yield "It must be known that no certificate of the GPU was revoked."
    if gpu.min_driver:
        yield f"The GPU's driver must be {gpu.min_driver} or newer."
    if gpu.vbios:
        yield f"The GPU's firmware must be {_list(gpu.vbios)}."


def _time(policy: Policy) -> Iterator[str]:
    yield f"Evidence may be {_span(policy.max_age_s)} old at the time of a turn."
    if policy.require_later_epoch:
        yield "A receipt needs evidence over the same keys from after the turn, too."


def _log(policy: Policy) -> Iterator[str]:
    logs = _list(key.name for key in policy.log_keys)
    if policy.require_inclusion:
        yield f"Bundles and receipts must stand in a log that the policy names: {logs}."
    else:
        yield f"Bundles and receipts need not stand in a log; proofs of {logs} are judged."
    names = sorted({key.name for key in policy.witnesses})
    if policy.min_witnesses:
        yield f"{policy.min_witnesses} of these witnesses must have cosigned: {_list(names)}."
    if policy.require_cose:
        yield "A receipt needs a COSE Receipt of the same log, too."


def _custody(policy: Policy) -> Iterator[str]:
    custody = policy.custody
    if custody.kind == "none":
        yield "Nobody vouches for where the machines stand; that verdict stays unchecked."
    else:
        whose = "the operator" if custody.kind == "operator-asserted" else "a third party"
        count = len(custody.platforms)
        which = "the one" if count == 1 else f"one of the {count}"
        yield f"The machine must be {which} that {whose} vouches for."


def _warnings(policy: Policy) -> Iterator[str]:
    kinds = _accepted(policy)
    simulated, hardware = SIMULATED in kinds, any(one != SIMULATED for one in kinds)
    software = bool(policy.measurements or policy.releases)
    late = [one for one in policy.tdx.statuses if one.startswith("OutOfDate")]
    inclusion, gpu = policy.require_inclusion, policy.gpu
    foreign = [
        name
        for name, roots, theirs in (
            (_HARDWARE[tdx.KIND], policy.tdx.roots, tdx.ROOTS),
            (_HARDWARE[snp.KIND], policy.snp.roots, snp.ROOTS),
            ("GPUs", gpu.roots, nvidia.ROOTS),
            ("GPUs' reference values", gpu.rim_roots, nvidia.RIM_ROOTS),
        )
        if not theirs.issuperset(roots)
    ]
    for applies, text in (
        (
            simulated,
            "DEVELOPMENT: simulated evidence passes. It proves the flow, and nothing about the "
            "machine.",
        ),
        (
            simulated and not policy.simulated_roots,
            "No development root is pinned: anybody can simulate a machine for you.",
        ),
        (
            simulated and not software,
            "Simulated evidence passes whatever software it names.",
        ),
        (
            policy.allow_debug,
            "Debug mode is allowed: an operator can read everything in such a machine.",
        ),
        (
            policy.measurements == "any",
            "Measurements are not judged: any program may stand behind the keys.",
        ),
        (not kinds, "No kind of evidence passes, so nothing passes."),
        (
            hardware and not software,
            "No software is named, so nothing on real hardware passes.",
        ),
        (inclusion and not policy.log_keys, "No log is pinned, so nothing passes."),
        (
            not inclusion,
            "Inclusion is not required: somebody could be given keys that nobody else sees.",
        ),
        (
            inclusion and not policy.min_witnesses,
            "No witness is required: the log's operator could show you a tree that nobody else "
            "sees.",
        ),
        (
            policy.min_witnesses == 1,
            "One witness alone is required: together with the log it could show you any tree.",
        ),
        (
            hardware and not gpu.required,
            "No GPU is required: a model may run where only the CPU protects it.",
        ),
        (
            not gpu.confidential,
            "GPUs pass with confidential computing off: their memory and bus are in the open.",
        ),
        (
            not gpu.rims,
            "GPU measurements are not held against signed values: any firmware may run there.",
        ),
        (
            not gpu.revocation,
            "Revocation of GPU certificates is off: a GPU whose key leaked passes.",
        ),
        (
            tdx.KIND in kinds and bool(late),
            f"TDX machines with known flaws pass for good: {_list(late, last='and')}.",
        ),
        (
            bool(foreign),
            f"Roots that are not the vendor's are pinned for {_list(foreign, last='and')}: whoever "
            "has their keys can make up such evidence.",
        ),
        (
            snp.KIND in kinds and "Milan" in policy.snp.products,
            "AMD's Milan passes: software alone reads the secret behind its keys (arXiv "
            "2605.12990), so that its reports can be forged.",
        ),
        (
            bool(policy.release_keys) and not policy.releases,
            "Release keys are named, and no release: they have no effect.",
        ),
        (
            policy.grace_s > _LONG_GRACE_S,
            f"A grace of {_span(policy.grace_s)} lets known flaws pass for long.",
        ),
    ):
        if applies:
            yield text
