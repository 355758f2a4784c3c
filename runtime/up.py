"""The whole system on one machine: `sotto up`.

Valkey first, then witness, log, enclave, relay and edge side by side, each a process of its own
with a configuration that only it needs. Which ports and files: docs/configuration.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from proofs.errors import LogError, PolicyError
from proofs.log.keyfile import load_or_create_signer
from proofs.note import KeyType
from proofs.policy import Policy
from proofs.witness.service import load_cosigners
from runtime.config import (
    EdgeConfig,
    EnclaveConfig,
    EngineConfig,
    LogRoleConfig,
    RelayRoleConfig,
    WitnessAddressConfig,
    WitnessRoleConfig,
    dump_config,
)
from runtime.enclave.identity import load_root, release_digest
from runtime.errors import SetupError
from runtime.exporting import new_file
from runtime.supervisor import Child, Supervisor
from runtime.valkey import EmbeddedValkey

HOST = "127.0.0.1"
_VALKEY_TIMEOUT_S = 60.0
# vLLM on a CPU takes the better part of a minute to load; large models on disks take longer.
_READY_TIMEOUT_S = {"embedded": 180.0, "scripted": 180.0, "openai": 180.0, "vllm": 900.0}
# Who stops when, with the seconds since the stop began at which a wave must be over. The enclave
# finishes turns and hands over receipts, then the log settles what it has, then Valkey writes its
# last bytes; what one wave does not need is left to the next.
_WAVES = [(["edge", "relay", "enclave"], 3.6), (["log"], 4.4), (["witness", "valkey"], 4.9)]
_RELAY_DRAIN_S = 3.0
# Each role's port, counted from the edge's; metrics are 1000 above.
_PORTS = {"edge": 0, "relay": 1, "enclave": 2, "log": 3, "witness": 4}
_ORIGIN = "localhost/sottovoce-log"
_WITNESS = "localhost/sottovoce-witness"
_METRICS = 1000


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `sotto up` was asked for.

    Attributes:
        data: Folder for everything that stays.
        port: The edge's port; the other roles take the ports after it, metrics of all of them
            the ports 1000 above.
        engine: Which engine answers.
        simulated: Attest with simulated evidence; else with this machine's hardware.
        collateral: See `EnclaveConfig.collateral`.
        debug: See `EnclaveConfig.debug`.
        redis_url: A Redis of one's own instead of the embedded Valkey.
        enclave_module: The Python module that runs as the enclave, for a bench that measures
            another one.
    """

    data: Path
    port: int
    engine: EngineConfig
    simulated: bool = True
    collateral: Path | None = None
    debug: bool = False
    redis_url: str | None = None
    enclave_module: str = "runtime"

    def url(self, role: str) -> str:
        """Where a role listens."""
        return f"http://{HOST}:{self.port + _PORTS[role]}"

    @property
    def edge_url(self) -> str:
        """Where devices connect."""
        return f"ws://{HOST}:{self.port}/v1/realtime"

    @property
    def policy_file(self) -> Path:
        """What this machine's own devices demand of its enclave."""
        return self.home / "policy.toml"

    @property
    def home(self) -> Path:
        """The first device's folder."""
        return self.data / "device"


class Running:
    """A system that is up."""

    def __init__(self, options: UpOptions, supervisor: Supervisor) -> None:
        self.options = options
        self.supervisor = supervisor

    def addresses(self) -> dict[str, str]:
        """Where each part listens."""
        addresses = {role: self.options.url(role) for role in _PORTS}
        return {**addresses, "edge": self.options.edge_url}


@contextlib.asynccontextmanager
async def up(options: UpOptions) -> AsyncIterator[Running]:
    """Start everything, and stop everything at the end of the block.

    Raises:
        SetupError: A port, folder, binary or model is not as it must be; says what to do.
    """
    _prepare_folders(options.data)
    timeout = aiohttp.ClientTimeout(total=2)
    with _locked(options.data):
        _check_ports(ports_of(options.port))
        root = _development_root(options.data / "tee" / "root.pem") if options.simulated else None
        keys = _public_keys(options.data)
        supervisor = Supervisor(options.data / "logs")
        try:
            urls = await _start_valkey(options, supervisor)
            async with aiohttp.ClientSession(timeout=timeout) as http:
                roles = _roles(options, urls, keys, http)
                for child in roles:
                    await supervisor.start(child)
                await supervisor.wait_healthy(roles, _READY_TIMEOUT_S[options.engine.kind])
            if root is not None:
                _write_policy(options, root, keys)
            yield Running(options, supervisor)
        finally:
            await supervisor.stop(_WAVES)


async def _start_valkey(options: UpOptions, supervisor: Supervisor) -> dict[str, str]:
    """Start the embedded server, or use the one given; the address for each role."""
    if options.redis_url is not None:
        return dict.fromkeys(("enclave", "log", "edge"), options.redis_url)
    valkey = EmbeddedValkey(options.data / "valkey")

    async def answers() -> bool:
        return await asyncio.to_thread(valkey.ready)

    child = Child("valkey", valkey.command(), answers, has_lifeline=False)
    await supervisor.start(child)
    await supervisor.wait_healthy([child], _VALKEY_TIMEOUT_S)
    return {role: valkey.url(role) for role in ("enclave", "log", "edge")}


@dataclass(frozen=True, slots=True)
class _PublicKeys:
    """Whom the log and its witness know each other by, as vkeys."""

    log: str
    witness: str


def _public_keys(data: Path) -> _PublicKeys:
    """Keys of log and witness, made at the first start: each must know the other's."""
    try:
        signer = load_or_create_signer(data / "log.key", _ORIGIN)
        # The shorter cosignatures: every receipt carries one.
        witness = next(
            one.verifier
            for one in load_cosigners(data / "witness", _WITNESS)
            if one.verifier.key_type == KeyType.ED25519_COSIGNATURE
        )
    except LogError as error:
        raise SetupError(str(error)) from None
    return _PublicKeys(signer.verifier.format(), witness.format())


def _roles(
    options: UpOptions, urls: dict[str, str], keys: _PublicKeys, http: aiohttp.ClientSession
) -> list[Child]:
    data = options.data
    listen: dict[str, dict[str, Any]] = {
        role: {"port": options.port + port, "metrics_port": options.port + _METRICS + port}
        for role, port in _PORTS.items()
    }
    configs = {
        "witness": WitnessRoleConfig(
            **listen["witness"], directory=data / "witness", name=_WITNESS, logs=(keys.log,)
        ),
        "log": LogRoleConfig(
            **listen["log"],
            redis_url=urls["log"],
            directory=data / "log",
            key_file=data / "log.key",
            origin=_ORIGIN,
            witnesses=(WitnessAddressConfig(vkey=keys.witness, url=options.url("witness")),),
        ),
        "enclave": EnclaveConfig(
            **listen["enclave"],
            redis_url=urls["enclave"],
            simulated_root=data / "tee" / "root.pem" if options.simulated else None,
            collateral=options.collateral,
            engine=options.engine,
            debug=options.debug,
        ),
        "relay": RelayRoleConfig(
            **listen["relay"],
            gateways={"enclave-0": options.url("enclave")},
            # The edge is its one client.
            max_client_streams=4096,
            drain_s=_RELAY_DRAIN_S,
        ),
        "edge": EdgeConfig(
            **listen["edge"], redis_url=urls["edge"], relay_urls=(options.url("relay"),)
        ),
    }
    children = []
    for role, config in configs.items():
        file = data / "config" / f"{role}.toml"
        dump_config(config, file)
        module = options.enclave_module if role == "enclave" else "runtime"
        # -P: what lies in the folder where `sotto up` runs, such as imported `personas`, would
        # be taken for our packages.
        command = [sys.executable, "-P", "-m", module, role, "--config", str(file), "--lifeline"]
        children.append(Child(role, command, _HealthCheck(http, f"{options.url(role)}/healthz")))
    return children


class _HealthCheck:
    """Whether ``GET url`` answers 200."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def __call__(self) -> bool:
        try:
            async with self._http.get(self._url) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


def _prepare_folders(data: Path) -> None:
    try:
        for name in ("config", "device", "logs", "tee", "valkey", "witness"):
            (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = data / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SetupError(
            f"the data folder {data} cannot be written ({error.strerror}); choose another with "
            "--data, or `make run DATA=FOLDER`",
            code="folder",
        ) from None


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Two systems on one data folder would ruin its log and its Valkey; the second is refused."""
    lock = os.open(data / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SetupError(
                f"another Sottovoce uses the data folder {data}; stop it, or choose another with "
                "--data, or `make run DATA=FOLDER`",
                code="folder_in_use",
            ) from None
        yield
    finally:
        os.close(lock)


def ports_of(edge: int) -> list[int]:
    """Every port that a system takes whose edge has this one."""
    return [edge + more + port for more in (0, _METRICS) for port in _PORTS.values()]


def _check_ports(ports: list[int]) -> None:
    """Fail before anything starts, with one line, where a port is taken."""
    if not 0 < min(ports) <= max(ports) < 65536:
        raise SetupError(
            f"the ports {min(ports)} to {max(ports)} are not all between 1 and 65535; choose a "
            "--port from 1 to 64531, or `make run PORT=N`",
            code="port",
        )
    for port in ports:
        with socket.socket() as probe:
            # As servers do: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise SetupError(
                    f"port {port} on {HOST} is taken by another program (perhaps a Sottovoce "
                    "that still runs); stop it, or choose other ports with --port, "
                    "or `make run PORT=N`",
                    code="port_taken",
                ) from None


def _development_root(path: Path) -> Ed25519PrivateKey:
    """The key that plays the chip vendor on a machine without a TEE; made at the first start."""
    if path.exists():
        return load_root(path)
    key = Ed25519PrivateKey.generate()
    with new_file(path) as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _write_policy(options: UpOptions, root: Ed25519PrivateKey, keys: _PublicKeys) -> None:
    """What this machine's devices demand: this root, this log, the releases that ran here.

    It lets simulated evidence pass because `--allow-simulated` said so in the open. Earlier
    releases stay, or the receipts of yesterday's turns would fail after an update; for their
    sake a log that began without a witness goes on without one being demanded.
    """
    measurements = [{"release": release_digest().hex()}]
    min_witnesses = 1
    if options.policy_file.exists():
        try:
            before = Policy.load(options.policy_file)
        except PolicyError as error:
            raise SetupError(f"{error} Or remove the file: it is made anew.") from None
        earlier = () if before.measurements == "any" else before.measurements
        measurements += [{name: digest.hex() for name, digest in one.items()} for one in earlier]
        min_witnesses = before.min_witnesses
    policy = {
        "allow_simulated": True,
        "allow_debug": options.debug,
        "kinds": ["simulated"],
        "simulated_roots": [root.public_key().public_bytes_raw().hex()],
        "measurements": [one for n, one in enumerate(measurements) if one not in measurements[:n]],
        "log_keys": [keys.log],
        "witnesses": [keys.witness],
        "min_witnesses": min_witnesses,
    }
    stamp = time.strftime("%Y-%m-%d", time.gmtime())
    options.policy_file.write_text(
        f"# Written by `sotto up --allow-simulated` on {stamp}. SIMULATED evidence passes under\n"
        "# this policy: it proves the flow, and nothing about the machine.\n"
        + tomli_w.dumps(policy),
        encoding="utf-8",
    )
