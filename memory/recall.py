"""Which turns go back into the prompt."""

from collections.abc import Callable, Sequence

from memory.records import Turn


def recent_within(
    turns: Sequence[Turn], budget: int, cost: Callable[[Turn], int]
) -> tuple[Turn, ...]:
    """Return the newest turns whose costs add up to `budget` at most, oldest first.

    The first turn that does not fit ends the choice, so that what is left is a conversation
    without holes. `cost` counts what one turn takes in the prompt, in tokens.
    """
    start = len(turns)
    left = budget
    while start > 0:
        left -= cost(turns[start - 1])
        if left < 0:
            break
        start -= 1
    return tuple(turns[start:])
