"""Records that are to stand further on in another thread: what they name moves with them.

Apart from the rest, because a device uses it, and need not load what ranks memories.
"""

from dataclasses import replace

from memory.kinds import Notes, Pin, Record, Ref, Summary, Turn


def shifted(record: Record, by: int) -> Record:
    """Return a record whose references mean records that stand `by` places further on."""

    def move(ref: Ref) -> Ref:
        return Ref(ref.index + by, ref.at)

    match record:
        case Turn():
            return replace(
                record,
                recalled=tuple(map(move, record.recalled)),
                window=record.window + by,
                summary=None if record.summary is None else record.summary + by,
            )
        case Notes():
            facts = (
                replace(
                    fact,
                    sources=tuple(one + by for one in fact.sources),
                    supersedes=tuple(map(move, fact.supersedes)),
                )
                for fact in record.facts
            )
            return replace(
                record,
                turn=None if record.turn is None else record.turn + by,
                facts=tuple(facts),
                sources=tuple((move(ref), turn + by) for ref, turn in record.sources),
            )
        case Summary():
            return replace(record, before=record.before + by)
        case Pin():
            return replace(record, ref=move(record.ref))
        case _:
            return record
