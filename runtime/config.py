"""Configuration files of the roles: TOML, strict, one per role, readable by its role alone."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import SetupError
from runtime.wire import GatewayName

Port = Annotated[int, Field(ge=0, le=65535)]
# TOML has no type for these two: a path is written as text, and a URL may hold a password.
_Path = Annotated[Path, Field(strict=False)]
RelayUrl = Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$")]
_SecretUrl = Annotated[str, Field(repr=False)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EngineConfig(_Config):
    """Which engine answers; see docs/engines.md.

    Attributes:
        model_key: Public key of whoever signed the model (docs/models.md); None: unsigned.
        model_signature: The signature's file; None: `model.sig` in the model's folder.
    """

    kind: Literal["embedded", "vllm", "openai", "scripted"] = "embedded"
    model: str | None = None
    model_key: _Path | None = None
    model_signature: _Path | None = None
    base_url: str | None = None
    context_tokens: Annotated[int, Field(ge=256)] | None = None
    first_token_s: Annotated[float, Field(ge=0)] = 0.05
    token_s: Annotated[float, Field(ge=0)] = 0.02
    tokens: Annotated[int, Field(ge=1)] = 64


class EmbeddingConfig(_Config):
    """What makes the vectors by which memory is recalled; see docs/engines.md.

    Attributes:
        kind: `static` ships with Sottovoce and needs no GPU; `none` recalls by words alone.
        model: Folder or name of an embedding model; for `vllm`.
        model_key: Public key of whoever signed it (docs/models.md); None: unsigned.
        model_signature: The signature's file; None: `model.sig` in the model's folder.
        gpu_share: Share of a GPU's memory that `vllm` takes for it.
    """

    kind: Literal["static", "vllm", "none"] = "static"
    model: str | None = None
    model_key: _Path | None = None
    model_signature: _Path | None = None
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 0.05


class PersonasConfig(_Config):
    """Published personas; see docs/publishing.md.

    Attributes:
        publish: `open`: whoever reaches the enclave may publish under a handle that nobody has.
            `closed`: nobody may; what was published is still answered, and grants are taken.
    """

    publish: Literal["open", "closed"] = "open"


class EnclaveConfig(_Config):
    """The enclave: gateway, agent and engine.

    Attributes:
        gateway: This replica's name, by which relays know it.
        simulated_root: Private key of the development root of simulated evidence. None: the
            evidence comes from this machine's hardware.
        collateral: Folder of what vendors publish about that hardware, kept fresh by the
            operator (docs/collection.md); read anew at each collection.
        debug: Show the built prompt to the device, sealed, and say DEBUG in the evidence.
        key_lifetime_s: How long key configurations are accepted; new ones come at half of it.
        evidence_interval_s: After how long evidence over the same keys is collected anew.
    """

    gateway: GatewayName = "enclave-0"
    host: str = "127.0.0.1"
    port: Port = 8472
    metrics_port: Port = 9472
    redis_url: _SecretUrl
    simulated_root: _Path | None = None
    collateral: _Path | None = None
    engine: EngineConfig = EngineConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    personas: PersonasConfig = PersonasConfig()
    debug: bool = False
    key_lifetime_s: Annotated[int, Field(ge=60, le=86400)] = 86400
    evidence_interval_s: Annotated[int, Field(ge=5, le=86400)] = 3600
    max_turns: Annotated[int, Field(ge=1)] = 256


class EdgeConfig(_Config):
    """The websocket edge.

    Attributes:
        relay_urls: Base addresses of the relays, of which each stream takes one at random.
    """

    host: str = "127.0.0.1"
    port: Port = 8470
    metrics_port: Port = 9470
    redis_url: _SecretUrl
    relay_urls: Annotated[tuple[RelayUrl, ...], Field(min_length=1, strict=False)]
    max_sockets: Annotated[int, Field(ge=1)] = 10_000
    resume_s: Annotated[float, Field(ge=0)] = 60.0


class RelayRoleConfig(_Config):
    """The relay: names of gateways and where they are. It needs nothing else.

    The limits are explained in `transport.relay.config.RelayConfig`.
    """

    host: str = "127.0.0.1"
    port: Port = 8471
    metrics_port: Port = 9471
    gateways: Annotated[dict[GatewayName, str], Field(min_length=1)]
    max_streams: Annotated[int, Field(ge=1)] = 4096
    max_client_streams: Annotated[int, Field(ge=1)] = 1024
    max_connections: Annotated[int, Field(ge=1)] = 8192
    max_request_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024
    max_response_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    head_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    request_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    idle_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    exchange_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    drain_s: Annotated[float, Field(ge=0)] = 30.0


class WitnessAddressConfig(_Config):
    """A witness that a log asks: its key, and where it listens."""

    vkey: str
    url: RelayUrl


class LogRoleConfig(_Config):
    """The transparency log.

    Attributes:
        batch_interval_s: How long a leaf waits for others before its batch is taken.
        batch_size: Most leaves of a batch.
        witnesses: Who is asked to cosign each tree head before it is published.
        witness_quorum: How many of them must; None: more than half.
    """

    host: str = "127.0.0.1"
    port: Port = 8473
    metrics_port: Port = 9473
    redis_url: _SecretUrl
    directory: _Path
    key_file: _Path
    origin: str = "localhost/sottovoce-log"
    batch_interval_s: Annotated[float, Field(gt=0, le=60)] = 0.25
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 4096
    witnesses: Annotated[tuple[WitnessAddressConfig, ...], Field(strict=False)] = ()
    witness_quorum: Annotated[int, Field(ge=0)] | None = None


class WitnessRoleConfig(_Config):
    """A witness: a folder and keys of logs. It needs nothing else.

    Attributes:
        directory: Its folder, with keys and records; made on first start.
        logs: vkeys of the logs that it cosigns.
        name: Its name in cosignatures, such as `example.com/w1`; it never changes.
    """

    host: str = "127.0.0.1"
    port: Port = 8474
    metrics_port: Port = 9474
    directory: _Path
    logs: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    name: str | None = None


ConfigT = TypeVar("ConfigT", bound=_Config)


def load_config(kind: type[ConfigT], path: Path) -> ConfigT:
    """Read one role's file.

    Raises:
        SetupError: Unreadable, not TOML, or a wrong key; names file, key and remedy, never the
            value, which may be a password.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(
            f"the configuration {path} cannot be read: {error.strerror}; pass --config FILE"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"the configuration {path} is not TOML: {error}") from error
    return parse_config(kind, raw, f"the configuration {path}")


def parse_config(kind: type[ConfigT], raw: dict[str, Any], source: str) -> ConfigT:
    """Validate settings, wherever they come from; raises SetupError as `load_config` does."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        if first["type"] == "extra_forbidden":
            raise SetupError(
                f"{source}: there is no key {key}; docs/configuration.md lists the keys"
            ) from None
        raise SetupError(
            f"{source}: {key}: {first['msg']}; docs/configuration.md lists the keys"
        ) from None


def dump_config(config: BaseModel, path: Path) -> None:
    """Write one role's file, readable by this user alone."""
    text = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # A file that was there keeps its mode, and this one holds a password.
        os.fchmod(descriptor, 0o600)
        file.write(text)
