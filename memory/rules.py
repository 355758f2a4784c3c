"""What a person says of themselves, found by patterns: for engines that follow no instructions.

English only, and rather too little than too much: of what is asked, imagined, quoted, played or
said of somebody else, nothing is taken. Every fact is built of the message's own words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from memory.facts import Learned, canonical
from memory.kinds import MAX_FACT_CHARS
from memory.rule_table import PIECES, RULES
from memory.rule_values import TAKES, Take
from memory.words import STOP, words

MAX_LEARNED: Final = 8  # from one message
_MAX_CHARS: Final = 4000

# Sentences, with what ends them; then the parts of one that stand for themselves.
_SENTENCE: Final = re.compile(r"[^.!?;\n]+(?:\.(?=\w)[^.!?;\n]+)*[.!?;]*")
_PART: Final = re.compile(
    r"(?:,|;|\s[-\u2013\u2014])?\s+(?:and|but|so|because|although|though)\s+(?=(?:I|i|my|My|we)\b)"
    r"|,\s+(?=(?:I|i|my|My|we)\b)|\s[-\u2013\u2014]\s|:\s+"
)
_INITIAL: Final = re.compile(r"\b((?:[A-Z]|Dr|Mr|Mrs|Ms|St))\.(?=\s[A-Z])")
_QUOTED: Final = re.compile(
    r"\"[^\"]*\"?|\u201c[^\u201d]*\u201d?|\u00ab[^\u00bb]*\u00bb?|(?<!\w)['\u2018][^'\u2019]+['\u2019](?!\w)|\*[^*]*\*?"
    r"|`[^`]*`?|\([^)]*\)?|\[[^\]]*\]?"
)
_OPENING: Final = re.compile(
    r"(?:(?:well|oh|ah|hi|hello|hey|hiya|yes|yeah|yep|no|nope|so|and|but|also|actually|honestly|"
    r"basically|anyway|btw|by the way|to be honest|me too|sure|ok|okay|cool|nice|wow|thanks|"
    r"thank you|sorry|sadly|luckily|fortunately|unfortunately|right now|these days|nowadays|"
    r"lately|now|currently|at the moment|today|yesterday|guess what|big news|good news|fun fact|"
    r"you know|i mean|i guess you could say|oh and|in fact|as for me|for me|personally|besides|"
    r"there|everyone|everybody|all|since then|just so you know|for the record)\b[,:!\s]*)+",
    re.IGNORECASE,
)
# Not so, not now, or not said by the writer.
_UNREAL: Final = re.compile(
    r"\b(?:if|unless|whether|would|'d|could|might|(?-i:may)|maybe|perhaps|probably|suppose|supposing|"
    r"imagine|imagining|imagined|pretend\w*|dream\w*|dreamt|wish\w*|hop(?:e|es|ed|ing)|"
    r"let'?s say|what about|as though|role-?play\w*|in character|in the game|in the story|"
    r"in my story|my character|hypothetical\w*|joking|kidding|jk|almost|nearly|"
    r"said|says|saying|told|tells|asked|asks|claims?|claimed|thinks|thought|calls|called me|"
    r"quote\w*|lyrics?|act as|acts? like|you are|you're|when i grow up|when i was|"
    r"as a (?:kid|child)|"
    r"one day|some ?day|should|(?-i:will)|'ll|gonna|going to|want to|wanna|planning to|or)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern for a whole part of a sentence, and what it says; see `memory.rule_table`."""

    pattern: re.Pattern[str]
    text: str
    about: str
    importance: int
    take: Take

    def learned(self, part: str) -> Learned | None:
        match = self.pattern.fullmatch(part)
        if match is None:
            return None
        groups = {name: (text or "").strip() for name, text in match.groupdict().items()}
        value = self.take(groups["v"]) if "v" in groups else ""
        if "v" in groups and not value:
            return None
        groups = {"r": "", **groups, "v": _third_person(value), "k": _key(value)}
        about = self.about.format(**{name: text.lower() for name, text in groups.items()})
        return Learned(
            self.text.format(**groups)[:MAX_FACT_CHARS], canonical(about), self.importance
        )


def _key(value: str) -> str:
    kept = [word for word in words(value) if word not in STOP]
    return "-".join(kept)[:40].strip("-") or "-".join(words(value))[:40].strip("-")


def _third_person(value: str) -> str:
    return _FIRST.sub(lambda match: _THIRD[match[0].lower()], value)


_THIRD: Final = {
    "i'm": "they are",
    "i've": "they have",
    "i am": "they are",
    "i": "they",
    "my": "their",
    "me": "them",
    "mine": "theirs",
    "myself": "themselves",
    "we": "they",
    "our": "their",
    "us": "them",
}
_FIRST: Final = re.compile(
    r"\b(?:i'm|i've|i am|i|my|me|mine|myself|we|our|us)\b(?!['\u2019])", re.IGNORECASE
)


def _read(table: str) -> Iterator[_Rule]:
    about, importance, take, text = "", "", "", ""
    for line in re.sub(r"\n {8}", "", table).splitlines():
        if line.startswith(" "):
            pattern = line[4:]
            for _ in range(2):  # pieces hold pieces
                pattern = re.sub("<([A-Z]+)>", lambda name: PIECES[name[1]], pattern)
            found = re.compile(pattern, re.IGNORECASE)
            yield _Rule(found, text, about.strip("-"), int(importance), TAKES[take])
        elif line and not line.startswith("#"):
            about, importance, take, text = line.split(" ", 3)
            take = take.rstrip(":")


_RULES: Final = tuple(_read(RULES))


def rule_based(message: str) -> list[Learned]:
    """Return what a person says of themselves in a message, at most `MAX_LEARNED` facts.

    English only; deterministic. Every fact begins with "The user" and is made of the message's own
    words.
    """
    text = _QUOTED.sub(" \x00 ", message[:_MAX_CHARS].replace("\u2019", "'"))
    text = _INITIAL.sub(r"\1", text)
    found: dict[str, Learned] = {}
    for match in _SENTENCE.finditer(text):
        sentence = " ".join(match[0].split())
        if "?" in sentence or "\x00" in sentence or _UNREAL.search(sentence):
            continue
        for part in _PART.split(sentence.rstrip(".!;, ")):
            learned = _learned(part.strip(" ,"))
            if learned is not None:
                found.setdefault(learned.text, learned)
    return list(found.values())[:MAX_LEARNED]


def _learned(part: str) -> Learned | None:
    opened = _OPENING.sub("", part, count=1) if _OPENING.match(part) else part
    for candidate in dict.fromkeys((part, opened)):
        for rule in _RULES:
            learned = rule.learned(candidate)
            if learned is not None:
                return learned
    return None
