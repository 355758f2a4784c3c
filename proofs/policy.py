"""What a verifier is ready to accept: a TOML file that its user can read.

```toml
kinds = ["simulated"]            # kinds of evidence; default: every kind this version knows
allow_simulated = true           # default: false
allow_debug = false              # default
simulated_roots = ["<64 hex>"]   # development roots; none: any root passes where simulated may
measurements = [{ "vm.image" = "<hex>" }]   # sets that may run, each complete; or "any"
min_tcb = 1                      # default: 0
refused_advisories = ["INTEL-SA-00837"]
max_age_s = 86400                # default; oldest evidence
log_keys = ["<vkey>"]            # logs that are believed, as c2sp.org/signed-note vkeys
require_inclusion = true         # default

[custody]
kind = "third-party"             # or "operator-asserted", or "none" (default)
platforms = ["<64 hex>"]         # machines that somebody vouches for
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from proofs.claims import Measurements
from proofs.errors import PolicyError, UnreadableError
from proofs.evidence import APPRAISERS
from proofs.evidence.simulated import KIND as SIMULATED
from proofs.note import VerifierKey, parse_vkey

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


_Digest = Annotated[
    bytes,
    BeforeValidator(_from_hex),
    Field(min_length=1, max_length=64),
    PlainSerializer(bytes.hex),
]
_Digest32 = Annotated[_Digest, Field(min_length=32, max_length=32)]
_Vkey = Annotated[VerifierKey, BeforeValidator(_from_vkey), PlainSerializer(VerifierKey.format)]
_MODEL = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class Custody(BaseModel):
    """Who vouches for the place where the machines stand.

    Attributes:
        kind: `none`, the operator's word, or a third party's list.
        platforms: Platform ids that they vouch for, 32 bytes each.
    """

    model_config = _MODEL

    kind: Literal["none", "operator-asserted", "third-party"] = "none"
    platforms: tuple[_Digest32, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _names_what_it_vouches_for(self) -> Self:
        if (self.kind == "none") != (not self.platforms):
            raise ValueError("name platforms with a kind other than none, and only then")
        return self


class Policy(BaseModel):
    """A verifier's policy; the module's text shows every key.

    The built-in default is `strict`: it believes no log, allows no measurement and refuses
    simulated evidence, so nothing passes that its user did not name.
    """

    model_config = _MODEL

    kinds: tuple[str, ...] = Field(default=tuple(APPRAISERS), strict=False)
    allow_simulated: bool = False
    allow_debug: bool = False
    simulated_roots: tuple[_Digest32, ...] = Field(default=(), strict=False)
    measurements: (
        Literal["any"] | Annotated[tuple[dict[str, _Digest], ...], Field(strict=False)]
    ) = ()
    min_tcb: int = Field(default=0, ge=0)
    refused_advisories: tuple[str, ...] = Field(default=(), strict=False)
    max_age_s: int = Field(default=24 * 3600, gt=0)
    log_keys: tuple[_Vkey, ...] = Field(default=(), strict=False)
    require_inclusion: bool = True
    custody: Custody = Custody()

    @model_validator(mode="after")
    def _knows_the_kinds(self) -> Self:
        for kind in self.kinds:
            if kind not in APPRAISERS:
                raise ValueError(f"kinds: '{kind}' is none of {', '.join(APPRAISERS)}")
        return self

    @classmethod
    def strict(cls) -> Policy:
        """The default where a user names no file."""
        return cls()

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises:
            PolicyError: No such file, not TOML, an unknown key or a value out of bounds.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
            if len(data) > _MAX_FILE:
                raise PolicyError(
                    f"{path}: longer than {_MAX_FILE} bytes, so no policy. Shorten it."
                )
            return cls.model_validate(tomllib.loads(data.decode("utf-8")))
        except OSError as error:
            raise PolicyError(
                f"{path}: cannot be read ({error.strerror}). Check the name and its permissions."
            ) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise PolicyError(f"{path}: is not TOML ({error}). Correct the place named.") from error
        except ValidationError as error:
            raise PolicyError(f"{path}: {_explain(error)}") from error

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
        """Whether a chain of `kind` may end at `root`. With no development root pinned, any
        passes: none of them would prove more than another."""
        return kind == SIMULATED and (not self.simulated_roots or root in self.simulated_roots)

    def accepts_measurements(self, kind: str, measurements: Measurements) -> bool:
        """Whether software so measured may run. With no set named, simulated ones pass: nothing
        measured them."""
        if self.measurements == "any" or (kind == SIMULATED and not self.measurements):
            return True
        return dict(measurements) in self.measurements


def _explain(error: ValidationError) -> str:
    """Key and remedy of every fault, without the values: a policy may sit next to secrets."""
    told = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(Custody.model_fields if "." in key else Policy.model_fields)
            told.append(f"unknown key '{key}'. Remove it, or use one of: {known}.")
        else:
            told.append(f"'{key}': {fault['msg']}. Correct it.")
    return " ".join(told)
