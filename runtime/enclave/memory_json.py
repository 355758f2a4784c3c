"""Memories as the API's JSON (docs/protocol.md, "Memory")."""

from __future__ import annotations

from typing import Any

from memory.kinds import Ref
from memory.ledger import Ledger, Memory
from memory.thread import Position
from runtime.enclave.memory_api import MAX_PLACES

Json = dict[str, Any]


def shown(memory: Memory) -> Json:
    """A memory as JSON: what has nothing to say is left out."""
    turn = memory.turn
    members: Json = {
        "ref": str(memory.ref),
        "kind": memory.kind,
        "time": memory.time,
        "text": memory.text,
        "pinned": memory.pinned,
    }
    if memory.kind == "fact":
        members |= {
            "about": memory.about,
            "importance": memory.importance,
            "sources": [str(Ref(one)) for one in memory.sources],
        }
    if memory.superseded is not None:
        members |= {"superseded_by": str(memory.superseded), "until": memory.until}
    if memory.before is not None:
        members["before"] = str(Ref(memory.before))
    if turn is not None:
        members |= {
            "reply": memory.reply,
            "outcome": turn.outcome,
            "turn_id": turn.turn_id.hex(),
            "receipt_id": turn.receipt_id.hex(),
        }
    return members


def shown_or_gone(ledger: Ledger, ref: Ref) -> Json:
    """The memory of this name, or that it was forgotten."""
    memory = ledger.get(ref)
    return {"ref": str(ref), "forgotten": True} if memory is None else shown(memory)


def with_erased(position: Position, ledger: Ledger, members: Json) -> Json:
    """An answer from a whole thread.

    It names indexes of erased records, for devices that still hold what was said there.
    """
    erased = sorted(ledger.erased)[-MAX_PLACES:]
    return {"position": str(position), **members, "erased": erased}
