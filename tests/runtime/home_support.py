"""A device's folder with a conversation in it, as if it had been had, and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from personas.library import load_library
from proofs.bundle import bundle_entry
from proofs.ed25519 import raw_public
from proofs.erasure import decode_erasure, erasure_entry
from proofs.receipt import decode_receipt, receipt_entry
from runtime.client.device import Device
from runtime.client.home import DeviceHome
from runtime.client.rows import ReceiptRow, Sealing, Told
from runtime.client.turns import TurnOptions
from tests.proofs.archive_support import Conversation, Log
from tests.proofs.proofs_support import LOG, MEASUREMENTS, ROOT


def write_policy(folder: Path, more: str = "") -> Path:
    """A policy file that pins the tests' root, software and log; `more` comes first."""
    measured = ", ".join(f'"{name}" = "{value.hex()}"' for name, value in MEASUREMENTS)
    file = folder / "policy.toml"
    file.write_text(
        f'{more}\nallow_simulated = true\nsimulated_roots = ["{raw_public(ROOT).hex()}"]\n'
        f'measurements = [{{ {measured} }}]\nlog_keys = ["{LOG.verifier.format()}"]\n'
    )
    return file


def fill_home(
    home: DeviceHome, story: Conversation, persona: str = "wren", *, unsettled: int = 0
) -> None:
    """Put a conversation into a device's folder; the last `unsettled` receipts have no proof."""
    log: Log = story.log()
    thread = home.thread(persona)
    for number, (signed, said) in enumerate(zip(story.receipts, story.said, strict=True)):
        stated = decode_receipt(signed).unverified
        name, enclave = stated.receipt_id.hex(), stated.enclave.hex()
        home.bundles.keep(enclave, story.bundle, log.proof(bundle_entry(story.bundle)))
        row = ReceiptRow(
            receipt_id=name,
            turn_id=f"{int(name, 16) + 7:032x}",
            persona=persona,
            enclave_id=enclave,
            time=stated.time,
            outcome=str(stated.outcome),
            commitments=stated.request + stated.response,
            thread=thread,
        )
        sealing = Sealing(enclave, said.request_salt, said.response_salt)
        home.expect_receipt(row, Told(said.request, said.response, (sealing,)))
        home.keep_receipt(name, enclave, signed)
        if number < len(story.receipts) - unsettled:
            home.keep_proof(name, log.proof(receipt_entry(signed)))
            home.keep_cose(name, log.cose(receipt_entry(signed)))
    if story.erasure is not None:
        erased = decode_erasure(story.erasure).unverified
        begun = home.begin_erasure(persona, f"{thread + 1:032x}", erased.time)
        home.finish_erasure(begun, erased.enclave.hex(), story.erasure, erased.time)
        home.keep_erasure_proof(begun.receipt_id, log.proof(erasure_entry(story.erasure)))
        home.keep_cose(begun.receipt_id, log.cose(erasure_entry(story.erasure)))


async def turns_remembered(device: Device) -> int:
    """How many turns with Wren memory holds: asked incognito, so that it is no turn itself.

    A position would not tell, since notes may stand between turns.
    """
    asked = TurnOptions(incognito=())
    usage: dict[str, Any] = {}
    async for event in device.turn(load_library().get("wren"), "And now?", options=asked):
        usage = event.get("usage", usage)
    return int(usage["remembered_turns"])
