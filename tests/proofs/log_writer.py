"""A log writer to be killed: appends numbered entries until nobody lets it. Run by a test.

Usage: python log_writer.py FOLDER FIRST. Delivers again, from FIRST on, what earlier runs had.
"""

import hashlib
import sys
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proofs.log.sequencer import Sequencer
from proofs.log.store import LogStore
from proofs.note import Signer


def main() -> None:
    signer = Signer("log.example/one", Ed25519PrivateKey.from_private_bytes(b"\x03" * 32))
    sequencer = Sequencer(LogStore(Path(sys.argv[1]), signer))
    at = int(sys.argv[2])
    for step in count(1):
        numbers = range(at, at + step % 100 + 1)
        batch = [(str(n), hashlib.sha256(str(n).encode()).digest()) for n in numbers]
        sequencer.append(batch)
        at = numbers.stop
        print(at, sequencer.size, flush=True)  # noqa: T201 - how the test follows it


main()
