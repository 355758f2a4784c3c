"""Where commands and programs find a device's folder, its policy and the way to enclaves."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from proofs.errors import PolicyError
from proofs.policy import Policy
from runtime.client.carrier import Carrier
from runtime.client.connection import Connection
from runtime.client.relays import RelayCarrier
from runtime.errors import Exit, SetupError, SottoError

DEFAULT_EDGE = "ws://127.0.0.1:8470/v1/realtime"


def find_home(given: Path | None = None) -> Path:
    """The device's folder: the one given, else SOTTO_HOME, else this folder's, else the user's."""
    if given is not None:
        return given
    if "SOTTO_HOME" in os.environ:
        return Path(os.environ["SOTTO_HOME"])
    local = Path("data/device")
    return local if _is_ours(local) else Path.home() / ".local/share/sottovoce"


def _is_ours(folder: Path) -> bool:
    """Whether this user made it for himself: a folder that came with a download, with a secret and
    a policy of somebody else's, is not taken up because one stands beside it."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700


def find_policy(
    given: Path | None, home: Path, *, allow_simulated: bool = False
) -> tuple[Policy, str]:
    """The policy in force and where it comes from.

    Raises:
        SetupError: The file cannot be read, or is no policy.
    """
    chosen = given or os.environ.get("SOTTO_POLICY")
    path = Path(chosen) if chosen else home / "policy.toml"
    try:
        if chosen or path.is_file():
            policy, source = Policy.load(path), str(path)
        else:
            policy, source = Policy.strict(), "built-in"
    except PolicyError as error:
        raise SetupError(f"the policy {error}", code="policy") from None
    if allow_simulated:
        policy, source = policy.allowing_simulated(), f"{source} and --allow-simulated"
    return policy, source


def find_carrier(edge: str | None = None, relays: Sequence[str] = ()) -> Carrier:
    """The relays given, else the edge given, else SOTTO_EDGE, else an edge on this machine.

    Raises:
        SottoError: Both were given, or an address that is none.
    """
    if relays and edge is not None:
        raise SottoError("give an edge or relays, not both", exit_code=Exit.USAGE)
    if relays:
        return RelayCarrier(relays)
    return Connection(edge or os.environ.get("SOTTO_EDGE", DEFAULT_EDGE))
