"""Where commands find the device's folder, its policy and the edge, and how they print."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path

import orjson

from proofs.errors import PolicyError
from proofs.policy import Policy
from runtime.errors import SetupError

DEFAULT_EDGE = "ws://127.0.0.1:8470/v1/realtime"
SIMULATED_LINE = (
    "SIMULATED attestation: no confidential hardware stands behind this enclave. "
    "It shows the flow and proves nothing about the machine."
)


def add_home(parser: argparse.ArgumentParser) -> None:
    """``--home`` and ``--policy``."""
    parser.add_argument(
        "--home",
        type=Path,
        help="this device's folder (default: SOTTO_HOME, else data/device here, else "
        "~/.local/share/sottovoce)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        help="what an enclave must prove (default: SOTTO_POLICY, else policy.toml in the "
        "device's folder, else a built-in policy that refuses simulated evidence)",
    )
    parser.add_argument(
        "--allow-simulated",
        action="store_true",
        help="let simulated evidence pass, where the policy does not; says so on every screen",
    )


def add_edge(parser: argparse.ArgumentParser) -> None:
    """``--edge``."""
    parser.add_argument(
        "--edge",
        default=os.environ.get("SOTTO_EDGE", DEFAULT_EDGE),
        help=f"the edge's websocket (default: SOTTO_EDGE, else {DEFAULT_EDGE})",
    )


def home_folder(args: argparse.Namespace) -> Path:
    """The device's folder."""
    if args.home is not None:
        return Path(args.home)
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


def load_policy(args: argparse.Namespace) -> tuple[Policy, str]:
    """The policy in force and where it comes from."""
    chosen = args.policy or os.environ.get("SOTTO_POLICY")
    path = Path(chosen) if chosen else home_folder(args) / "policy.toml"
    try:
        if chosen or path.is_file():
            policy, source = Policy.load(path), str(path)
        else:
            policy, source = Policy.strict(), "built-in"
    except PolicyError as error:
        raise SetupError(f"the policy {error}", code="policy") from None
    if args.allow_simulated:
        policy, source = policy.allowing_simulated(), f"{source} and --allow-simulated"
    return policy, source


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def say(text: str = "", *, end: str = "\n") -> None:
    """Text for people on standard output, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def dim(text: str) -> str:
    """Less important text, where the terminal can show it."""
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
