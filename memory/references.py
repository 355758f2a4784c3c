"""What records name of each other: by it they are ordered, and it moves with them to another place.

Apart from the rest, because a device uses it, and need not load what ranks memories.
"""

from dataclasses import replace

from memory.kinds import Notes, Pin, Record, Ref, Summary, Turn


def named(record: Record) -> list[int]:
    """Return the indexes of the records that a record names."""
    match record:
        case Turn():
            summary = [] if record.summary is None else [record.summary]
            return [record.window, *summary, *(ref.index for ref in record.recalled)]
        case Notes():
            indexes = [] if record.turn is None else [record.turn]
            for fact in record.facts:
                indexes += [*fact.sources, *(ref.index for ref in fact.supersedes)]
            return indexes + [one for ref, turn in record.sources for one in (ref.index, turn)]
        case Summary():
            return [record.before]
        case Pin():
            return [record.ref.index]
        case _:
            return []


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
