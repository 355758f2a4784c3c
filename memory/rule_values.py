"""What of the words that a pattern found may be kept as the value of a fact."""

import re
from collections.abc import Callable, Mapping
from typing import Final

Take = Callable[[str], str]

_MAX_WORDS: Final = 9

_NOTHING: Final = re.compile(
    r"^(?:it|that|this|these|those|them|him|her|you|your|yours|so|too|not|what|how|when|where|who|"
    r"which|there|here|one|some|everything|anything|nothing|all|both|the (?:way|idea|sound|look|"
    r"same|fact|thought|people|part|one)|to (?:hear|see|know|think|say|be|do|thank)|hearing|"
    r"seeing|doing (?:it|that|this)|being|talking|meeting|a lot|and|but|as|i|my own)\b",
    re.IGNORECASE,
)
# What means nothing without the sentence before.
_POINTING: Final = re.compile(
    r"\b(?:it|them|that|this|those|these|there|him|her|ones?|one of|something|stuff|"
    r"you|your|same|other|else|such|both|either|neither)\b",
    re.IGNORECASE,
)
_FILLER: Final = re.compile(
    r"\s+(?:too|as well|though|now|these days|nowadays|currently|at the moment|right now|"
    r"actually|myself|lol|haha|by the way|so much|a lot|very much|again|already|anyway|"
    r"anymore|any more|any longer|as it happens|from now on|of course|with you|"
    r"as usual|today|yesterday|this (?:week|month|year|morning)|last (?:week|weekend|month|year))$",
    re.IGNORECASE,
)
_NAMES: Final = re.compile(
    r"((?:[A-Z\u00c0-\u00de][\w'\u2019-]*)(?: [A-Z\u00c0-\u00de][\w'\u2019-]+){0,2})"
    r"(?:$|,| (?:and|who|which|that|but|because|since|after|by|in|from)\b)"
)
_PLACES: Final = re.compile(
    r"((?:the )?[A-Z\u00c0-\u00de][\w'\u2019.-]*(?:,? (?:(?:of|upon|on|de|la) )?"
    r"[A-Z\u00c0-\u00de][\w'\u2019.-]+){0,3})"
    r"(?:$|,| (?:and|with|for|where|since|but|because|near|which|in|at|when|so|after|by|on)\b)"
)
_NO_NAMES: Final = frozenset({"I", "The", "A", "An", "My", "User", "It", "This", "That", "Not"})

# Trades that "I am a …" names, where no other word says that it is a trade.
_TRADES: Final = """
accountant actor actress analyst apprentice architect artist author baker banker barber barista
bartender beekeeper biologist blacksmith bookbinder bricklayer broker builder butcher caretaker
carpenter cashier chef chemist childminder cleaner clerk coach cobbler comedian composer consultant
contractor cook counsellor counselor courier curator dancer dentist designer detective developer
dietitian diplomat director doctor driver ecologist economist editor electrician engineer farmer
filmmaker firefighter fireman fisherman fitter florist gardener geologist glazier hairdresser
historian housekeeper housewife illustrator instructor interpreter janitor jeweller joiner
journalist judge lawyer lecturer librarian lifeguard locksmith machinist manager mason
mathematician mechanic midwife miner minister model musician nanny nurse nutritionist officer
optician painter paralegal paramedic pastor pharmacist philosopher photographer physicist
physiotherapist pianist pilot plasterer plumber poet policeman policewoman porter postman potter
priest producer professor programmer psychiatrist psychologist realtor receptionist reporter
researcher roofer sailor salesman salesperson saleswoman scientist sculptor seamstress secretary
singer soldier solicitor statistician student surgeon surveyor tailor teacher technician therapist
tiler translator tutor undertaker upholsterer vet veterinarian violinist waiter waitress
watchmaker welder worker writer zookeeper
"""
_JOBS: Final = frozenset(_TRADES.split())
_SPORTS_TEXT: Final = """
aerobics archery athletics badminton ballet baseball basketball bouldering bowling boxing canoeing
climbing cricket curling cycling dancing diving fencing football golf gymnastics handball hiking
hockey jogging judo karate kayaking kickboxing pilates polo rowing rugby running sailing skating
skiing snowboarding soccer squash surfing swimming tennis volleyball weightlifting wrestling yoga
"""
_SPORTS: Final = frozenset(_SPORTS_TEXT.split())


def _trimmed(value: str) -> str:
    """Return a value without what is said around it; nothing where it names nothing."""
    value = value.strip(" ,.!-\u2013\u2014")
    while (shorter := _FILLER.sub("", value)) != value:
        value = shorter.strip(" ,")
    if len(value.split()) > _MAX_WORDS or _NOTHING.match(value):
        return ""
    return value if re.search(r"\w\w", value) and not _POINTING.search(value) else ""


def _name(value: str) -> str:
    """Return the name at the beginning, where nothing follows that belongs to it."""
    match = _NAMES.match(_FILLER.sub("", value.strip(" ,.!")))
    return match[1] if match and match[1].split()[0] not in _NO_NAMES else ""


def _place(value: str) -> str:
    """Return the place at the beginning, in the same way."""
    match = _PLACES.match(_FILLER.sub("", value.strip(" ,.!")))
    return match[1].rstrip(",") if match and match[1].split()[0] not in _NO_NAMES else ""


def _few(value: str) -> str:
    """Return a value of at most four words."""
    value = _trimmed(value)
    return value if 0 < len(value.split()) <= 4 else ""


def _as_work(value: str) -> str:
    """Return what somebody works as, with its article."""
    value = re.split(r"\s(?:at|for|in|with|and|but|who|from|on|so)\b|,", value)[0]
    value = _trimmed(value)
    return value if 0 < len(value.split()) <= 5 else ""


def _a_trade(value: str) -> str:
    """Return what somebody is, with its article, where it is a trade."""
    value = _as_work(value)
    return value if value.split()[-1:] and value.split()[-1].lower() in _JOBS else ""


def _sport(value: str) -> str:
    value = re.split(r"\s(?:at|in|with|and|on|every|twice|once|three|each|since)\b|,", value)[0]
    value = _few(value)
    return value if value and value.split()[-1].lower() in _SPORTS else ""


def _age(value: str) -> str:
    return value if value.isdigit() and 5 <= int(value) <= 110 else ""


TAKES: Final[Mapping[str, Take]] = {
    "value": _trimmed,
    "few": _few,
    "name": _name,
    "place": _place,
    "work": _as_work,
    "trade": _a_trade,
    "sport": _sport,
    "age": _age,
}
"""Each returns the value as it may be kept, or nothing."""
