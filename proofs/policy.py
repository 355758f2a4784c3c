"""What a verifier is ready to accept: a TOML file that its user can read.

```toml
kinds = ["tdx", "snp"]           # kinds of CPU evidence; default: every kind this version knows
measurements = [{ "mrtd" = "<hex>", "rtmr0" = "<hex>" }]   # sets that may run, or "any"
release_keys = ["<vkey>"]        # who may sign release manifests
releases = ["one.release"]       # signed manifests beside this file: their sets may run, too
revoked_releases = ["<64 hex>"]  # releases whose TCB verdict fails, whenever they ran
models = ["<64 hex>"]            # digests of model manifests; none: any
allow_debug = false              # default
max_age_s = 86400                # default; oldest evidence
refused_advisories = ["INTEL-SA-00837"]
grace_s = 0                      # default; how long after a TCB recovery the level before passes
log_keys = ["<vkey>"]            # logs that are believed, as c2sp.org/signed-note vkeys
require_inclusion = true         # default
witnesses = ["<vkey>"]           # cosigners that are believed, of type 0x04 or 0x06
min_witnesses = 0                # default; so many of them must have cosigned
require_cose = false             # default; whether a receipt needs a COSE Receipt, too
require_later_epoch = false      # default; whether a receipt needs the next epoch's bundle

allow_simulated = true           # default: false
simulated_roots = ["<64 hex>"]   # development roots; none: any root passes where simulated may
min_tcb = 1                      # default: 0; of simulated evidence

[tdx]
roots = ["<64 hex>"]             # SHA-256 of root certificates in DER; default: Intel's
statuses = ["UpToDate"]          # default; Intel's words for TCB levels that pass
min_tcb = { module = 262 }       # floors by the names in proofs/evidence/tdx.py; default: none

[snp]
roots = ["<64 hex>"]             # default: AMD's
products = ["Genoa", "Turin"]    # default; lines of processors that pass, see SnpPolicy on Milan
min_tcb = { microcode = 213 }    # floors by the names in proofs/evidence/snp.py; default: none

[gpu]
required = false                 # default; whether an enclave must have a GPU
roots = ["<64 hex>"]             # default: NVIDIA's
rim_roots = ["<64 hex>"]         # of those who sign reference values; default: NVIDIA's
min_driver = "580.159"           # default: none
vbios = ["96.00.74.00.20"]       # versions that pass; default: any
rims = true                      # default; measurements must be those of signed reference values
revocation = true                # default; revocation of every certificate must be known
confidential = true              # default; confidential computing must be on
min_devices = 1                  # default

[custody]
kind = "third-party"             # or "operator-asserted", or "none" (default)
platforms = ["<64 hex>"]         # machines that somebody vouches for
```

A set of measurements is complete: every name that the kind of platform measures, no other.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from proofs.cbor import MAX_UINT
from proofs.claims import Measurements
from proofs.errors import PolicyError, ProofError, UnreadableError
from proofs.evidence import CPU_APPRAISERS, nvidia, snp, tdx
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.note import COSIGNER_KEYS, VerifierKey, parse_vkey
from proofs.release import MAX_RELEASE, Release, open_release

_MAX_FILE = 1024 * 1024


def _from_hex(value: object) -> object:
    if not isinstance(value, str):
        return value
    data = bytes.fromhex(value)
    if data.hex() != value:
        raise ValueError("write it in lower-case hex without spaces")
    return data


def _from_vkey(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_vkey(value)
    except UnreadableError as error:
        raise ValueError(str(error)) from error


def _from_cosigner_vkey(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_vkey(value, COSIGNER_KEYS)
    except UnreadableError as error:
        raise ValueError(str(error)) from error


_Digest = Annotated[
    bytes,
    BeforeValidator(_from_hex),
    Field(min_length=1, max_length=64),
    PlainSerializer(bytes.hex),
]
_Digest32 = Annotated[_Digest, Field(min_length=32, max_length=32)]
_Digests32 = Annotated[tuple[_Digest32, ...], Field(strict=False)]
_Vkey = Annotated[VerifierKey, BeforeValidator(_from_vkey), PlainSerializer(VerifierKey.format)]
_CosignerVkey = Annotated[
    VerifierKey, BeforeValidator(_from_cosigner_vkey), PlainSerializer(VerifierKey.format)
]
_Words = Annotated[tuple[str, ...], Field(strict=False)]
_Number = Annotated[int, Field(ge=0, le=MAX_UINT)]
_Floors = dict[str, _Number]
_MODEL = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class Custody(BaseModel):
    """Who vouches for the place where the machines stand.

    Attributes:
        kind: `none`, the operator's word, or a third party's list.
        platforms: Platform ids that they vouch for, 32 bytes each.
    """

    model_config = _MODEL

    kind: Literal["none", "operator-asserted", "third-party"] = "none"
    platforms: _Digests32 = ()

    @model_validator(mode="after")
    def _names_what_it_vouches_for(self) -> Self:
        if (self.kind == "none") != (not self.platforms):
            raise ValueError("name platforms with a kind other than none, and only then")
        return self


TdxStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""Intel's words for TCB levels; `Revoked` is one that no policy can let pass."""


class TdxPolicy(BaseModel):
    """What is accepted of Intel TDX."""

    model_config = _MODEL

    roots: _Digests32 = tuple(sorted(tdx.ROOTS))
    statuses: tuple[TdxStatus, ...] = Field(default=("UpToDate",), strict=False)
    min_tcb: _Floors = {}


class SnpPolicy(BaseModel):
    """What is accepted of AMD SEV-SNP.

    Milan passes only where it is named: software alone reads the secret from which its
    endorsement keys come (MilanLaunchy and BadFuse, arXiv 2605.12990), so that its reports can be
    forged for any firmware version, and no floor helps.
    """

    model_config = _MODEL

    roots: _Digests32 = tuple(sorted(snp.ROOTS))
    products: tuple[Literal["Milan", "Genoa", "Turin"], ...] = Field(
        default=("Genoa", "Turin"), strict=False
    )
    min_tcb: _Floors = {}


class GpuPolicy(BaseModel):
    """What is accepted of GPUs."""

    model_config = _MODEL

    required: bool = False
    roots: _Digests32 = tuple(sorted(nvidia.ROOTS))
    rim_roots: _Digests32 = tuple(sorted(nvidia.RIM_ROOTS))
    min_driver: str = Field(default="", pattern=r"^([0-9]{1,6}(\.[0-9]{1,6}){0,3})?$")
    vbios: _Words = ()
    rims: bool = True
    revocation: bool = True
    confidential: bool = True
    min_devices: int = Field(default=1, ge=1, le=64)

    def accepts_driver(self, version: str) -> bool:
        """Whether a driver is as new as the floor; one that cannot be read is not."""
        if not self.min_driver:
            return True
        parts = version.split(".")
        if not all(part.isascii() and part.isdigit() and len(part) <= 6 for part in parts):
            return False
        floor = self.min_driver.split(".")
        return [int(part) for part in parts] >= [int(part) for part in floor]


class Policy(BaseModel):
    """A verifier's policy; the module's text shows every key.

    The built-in default is `strict`: it believes no log, allows no measurement and refuses
    simulated evidence, so nothing passes that its user did not name.
    """

    model_config = _MODEL

    kinds: _Words = tuple(CPU_APPRAISERS)
    allow_simulated: bool = False
    allow_debug: bool = False
    simulated_roots: _Digests32 = ()
    measurements: (
        Literal["any"] | Annotated[tuple[dict[str, _Digest], ...], Field(strict=False)]
    ) = ()
    release_keys: Annotated[tuple[_Vkey, ...], Field(strict=False)] = ()
    releases: Annotated[tuple[Release, ...], Field(strict=False)] = ()
    revoked_releases: _Digests32 = ()
    models: _Digests32 = ()
    min_tcb: _Number = 0
    refused_advisories: _Words = ()
    grace_s: _Number = 0
    max_age_s: int = Field(default=24 * 3600, gt=0, le=MAX_UINT)
    log_keys: Annotated[tuple[_Vkey, ...], Field(strict=False)] = ()
    require_inclusion: bool = True
    witnesses: Annotated[tuple[_CosignerVkey, ...], Field(strict=False)] = ()
    min_witnesses: _Number = 0
    require_cose: bool = False
    require_later_epoch: bool = False
    tdx: TdxPolicy = TdxPolicy()
    snp: SnpPolicy = SnpPolicy()
    gpu: GpuPolicy = GpuPolicy()
    custody: Custody = Custody()

    @field_validator("releases", mode="before")
    @classmethod
    def _opens_releases(cls, value: object, info: ValidationInfo) -> object:
        """Files by name become manifests; `release_keys` stands before them, so it is known."""
        folder = (info.context or {}).get("folder")
        if folder is None or not isinstance(value, list):
            return value
        keys = info.data.get("release_keys")
        if keys is None:  # its own fault is told
            return ()
        return tuple(_open(folder, one, keys) if isinstance(one, str) else one for one in value)

    @model_validator(mode="after")
    def _knows_the_kinds(self) -> Self:
        for kind in self.kinds:
            if kind not in CPU_APPRAISERS:
                raise ValueError(f"kinds: '{kind}' is none of {', '.join(CPU_APPRAISERS)}")
        return self

    @model_validator(mode="after")
    def _asks_for_what_it_can_see(self) -> Self:
        keys = [key.public_key for key in (*self.log_keys, *self.witnesses)]
        names = {key.name for key in self.witnesses}
        if self.witnesses and len(set(keys)) != len(keys):
            raise ValueError(
                "witnesses: a key is named twice, or is a log's own: it would count for two"
            )
        if self.min_witnesses > len(names):
            raise ValueError(
                f"min_witnesses: {self.min_witnesses} are asked for, and {len(names)} are named"
            )
        if not self.require_inclusion and (self.min_witnesses or self.require_cose):
            raise ValueError(
                "min_witnesses and require_cose ask for a log, which require_inclusion = false "
                "does not"
            )
        return self

    @classmethod
    def strict(cls) -> Policy:
        """The default where a user names no file."""
        return cls()

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file, and the release manifests that it names beside it.

        Raises:
            PolicyError: No such file, not TOML, an unknown key, a value out of bounds, or a
                manifest that cannot be read or that no release key signed.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
            if len(data) > _MAX_FILE:
                raise PolicyError(
                    f"{path}: longer than {_MAX_FILE} bytes, so no policy. Shorten it."
                )
            return cls.model_validate(
                tomllib.loads(data.decode("utf-8")), context={"folder": path.parent}
            )
        except OSError as error:
            raise PolicyError(
                f"{path}: cannot be read ({error.strerror}). Check the name and its permissions."
            ) from error
        except ValidationError as error:
            raise PolicyError(f"{path}: {_explain(error)}") from error
        # Deep nesting exhausts the reader's stack, and numbers of thousands of digits are a bare
        # ValueError: no policy looks like that.
        except (ValueError, RecursionError) as error:
            raise PolicyError(f"{path}: is not TOML ({error}). Correct the place named.") from error

    def allowing_simulated(self, roots: Iterable[bytes] = ()) -> Policy:
        """A copy that lets simulated evidence pass, besides what it accepts already.

        Args:
            roots: Development roots (32 bytes each) to pin besides those pinned.
        """
        return self.model_copy(
            update={
                "allow_simulated": True,
                "kinds": tuple(dict.fromkeys((*self.kinds, SIMULATED))),
                "simulated_roots": (*self.simulated_roots, *roots),
            }
        )

    def trusting_logs(self, keys: Iterable[VerifierKey]) -> Policy:
        """A copy that believes these logs too."""
        return self.model_copy(update={"log_keys": (*self.log_keys, *keys)})

    def accepts_kind(self, kind: str) -> bool:
        """Whether evidence of `kind` may pass at all."""
        return kind in self.kinds and (kind != SIMULATED or self.allow_simulated)

    def accepts_root(self, kind: str, root: bytes) -> bool:
        """Whether a chain of CPU evidence of `kind` may end at `root`. With no development root
        pinned, any passes: none of them would prove more than another."""
        if kind == SIMULATED:
            return not self.simulated_roots or root in self.simulated_roots
        roots = {tdx.KIND: self.tdx.roots, snp.KIND: self.snp.roots}
        return root in roots.get(kind, ())

    def accepts_product(self, kind: str, product: str) -> bool:
        """Whether a processor of that line may stand behind evidence of `kind`."""
        return kind != snp.KIND or product in self.snp.products

    def statuses(self, kind: str) -> tuple[str, ...] | None:
        """The vendor's words for TCB levels that pass; None where the kind has no such words."""
        return self.tdx.statuses if kind == tdx.KIND else None

    def accepts_measurements(self, kind: str, measurements: Measurements) -> bool:
        """Whether software so measured may run, whatever its release. With no software named at
        all, simulated ones pass: nothing measured them."""
        if self.measurements == "any":
            return True
        if kind == SIMULATED and not self.measurements and not self.releases:
            return True
        return dict(measurements) in self.measurements

    def releases_with(self, kind: str, measurements: Measurements) -> tuple[Release, ...]:
        """The releases of which a platform of `kind` measures exactly this."""
        return tuple(one for one in self.releases if one.has(kind, measurements))

    def floors(self, kind: str) -> Mapping[str, int]:
        """The lowest security version numbers that pass, by name."""
        floors = {tdx.KIND: self.tdx.min_tcb, snp.KIND: self.snp.min_tcb}
        return floors.get(kind, {"svn": self.min_tcb})


def _open(folder: Path, name: str, keys: Iterable[VerifierKey]) -> Release:
    """The release manifest in `folder/name`; ValueError where it is none or not to be believed."""
    try:
        with (folder / name).open("rb") as file:
            return open_release(file.read(MAX_RELEASE + 1), keys)
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from error
    except ProofError as error:
        raise ValueError(f"{name}: {error}") from error


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "tdx": TdxPolicy,
    "snp": SnpPolicy,
    "gpu": GpuPolicy,
    "custody": Custody,
}


def _explain(error: ValidationError) -> str:
    """Key and remedy of every fault, without the values: a policy may sit next to secrets."""
    told = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        if fault["type"] == "extra_forbidden":
            section, _, inside = key.partition(".")
            model = _SECTIONS.get(section, Policy) if inside else Policy
            told.append(
                f"unknown key '{key}'. Remove it, or use one of: {', '.join(model.model_fields)}."
            )
        else:
            message = fault["msg"].removeprefix("Value error, ").rstrip(".")
            told.append(f"'{key}': {message}. Correct it.")
    return " ".join(told)
