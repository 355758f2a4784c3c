"""Fills in the names that the data set's writer left as placeholders.

Hundreds of turns say "I'm [user 1's name]" or "Nice to meet you, (name)". A model that learned
them would greet people that way, so training draws a name for each side instead, and tells
the persona its own: copying a name from the facts is then worth learning.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from toy_data import Conversation

_NAMES = (
    "Adam Aisha Alex Alice Amy Ana Andre Anna Ava Ben Bella Brian Carla Carlos Charlie Chloe "
    "Chris Clara Dana Daniel David Diana Elena Ella Emily Emma Eric Eva Fatima Felix Finn Frank "
    "George Grace Hannah Harry Helen Henry Ian Ines Iris Isaac Ivan Ivy Jack Jacob James Jane "
    "Jason Jenny Jin Joe John Jonas Julia Kai Kate Kevin Laura Leila Leo Liam Lily Lina Lisa "
    "Lucas Lucy Luis Luna Marco Maria Mark Marta Mary Matt Max Maya Mei Mia Michael Mike Mira "
    "Mohamed Nadia Nick Nina Noah Nora Oliver Olivia Omar Oscar Paul Peter Priya Rachel Ravi "
    "Robin Rosa Ruby Ryan Sam Sara Simon Sofia Sophie Steve Tara Theo Tim Tom Uma "
    "Victor Will Yuki Zara Zoe"
)
NAMES = tuple(_NAMES.split())

_WHOSE = r"(?:(?:the|my|your|their) )?(?:user[ _]?(?P<number>[12])?)?(?:'s)?[ _]?(?:user)?(?:name)?"
_PLACEHOLDER = re.compile(
    rf"[\[(<{{](?=\S){_WHOSE}[\])>}}]|\b[Uu]ser (?P<bare>[12])\b(?:'s name)?", re.IGNORECASE
)
_OWN = re.compile(
    r"(?:\bI'm|\bI am|\bname is|\bname's|\bthis is|\bcall me|^It's)\s*$", re.IGNORECASE
)
_LEFT_OVER = re.compile(r"[\[\]{}<>]|\(user|\(city\)|\buser_?[12]", re.IGNORECASE)


def fill_names(conversation: Conversation, rng: random.Random) -> Conversation | None:
    """The conversation with a drawn name for each side; None if other placeholders remain."""
    names = rng.sample(NAMES, 2)
    named = set()
    turns = []
    for speaker, text in conversation.turns:

        def name(match: re.Match[str], speaker: int = speaker) -> str:
            number = match["number"] or match["bare"]
            if number:
                who = int(number) - 1
            else:
                own = _OWN.search(match.string[: match.start()])
                who = speaker if own else 1 - speaker
            named.add(who)
            return names[who]

        filled = _PLACEHOLDER.sub(name, text)
        if _LEFT_OVER.search(filled):
            return None
        turns.append((speaker, filled))
    first, second = (
        (f"My name is {names[who]}.", *facts) if who in named else facts
        for who, facts in enumerate(conversation.facts)
    )
    return replace(conversation, facts=(first, second), turns=tuple(turns))
