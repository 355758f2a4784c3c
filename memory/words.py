"""Words as recall compares them: folded, without endings and without those that say nothing.

English endings are cut by a few rules; other languages are compared as they are written, and
scripts without spaces by pairs of characters.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterable
from itertools import filterfalse, islice
from typing import Final

import numpy as np
import numpy.typing as npt

Terms = npt.NDArray[np.uint32]

MAX_TERMS: Final = 64  # of one text; what follows is not compared
_PIECE: Final = 256
_MAX_CHARS: Final = 4096

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_PLAIN_WORD: Final = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)?")
# Han, kana and Thai have no spaces between words.
_UNSPACED: Final = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_VOWELS: Final = frozenset("aeiouy")
_NEGATIONS: Final = frozenset({"not", "no", "never", "nor", "none", "without", "anymore"})
_STOP_TEXT: Final = (
    "a about am an and any are as at be because been being but by can could did do does doing for "
    "from had has have having he her hers him his how i if in into is it its just like me mine "
    "more most my of on one or our ours out over really she so some such than that the their "
    "theirs them then there these they thing this those to too up us user very was we were what "
    "when where which who whom whose why will with would you your yours user yeah yes oh ok okay "
    "well hi hello hey thank thanks please im ive id ill youre thats whats tell know remember "
    "think say said also still now again get got getting go let lot much many good great nice "
    "fun sound sounds"
)
STOP: Final = frozenset(_STOP_TEXT.split())


def _composed(text: str) -> str:
    # In pieces: sorting a long run of combining marks takes the square of its length.
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)


def words(text: str) -> list[str]:
    """Return the words of a text in order, in lower case; "don't" becomes "not"."""
    # Not plain only for the ellipsis of what was shortened: no word has one.
    text = text[:_MAX_CHARS].replace("\u2026", " ")
    folded = text.lower() if text.isascii() else _composed(text).casefold()
    plain = folded.isascii()  # as most are, and then most of this has nothing to do
    parts: list[str] = (_PLAIN_WORD if plain else _WORD).findall(folded)
    if plain and "'" not in folded:
        return parts
    found: list[str] = []
    for word in parts:
        if word.isascii() and "'" not in word:
            found.append(word)
            continue
        root, _, ending = word.replace("\u2019", "'").partition("'")
        whole = "not" if ending == "t" else root + ending * (ending not in {"s", "m", "re"})
        if _UNSPACED.search(whole):
            found += [whole[at : at + 2] for at in range(max(1, len(whole) - 1))]
        else:
            found.append(whole)
    return found


def content(text: str) -> dict[str, None]:
    """Return the stems of a text's words that say something, each once, in order."""
    return dict.fromkeys(map(stem, filterfalse(STOP.__contains__, words(text))))


def meaning(text: str) -> frozenset[str]:
    """Return the stems that two texts share where they say the same; negations are among them."""
    found = set(words(text))
    stems = frozenset(map(stem, found - STOP)) - _NEGATIONS
    # "No longer", "not any more", "never": one thing, that it is not so.
    return stems if _NEGATIONS.isdisjoint(found) else stems | {"not"}


def stem(word: str) -> str:
    """Cut the commonest English endings, so that "walks", "walked" and "walking" are one word."""
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    if word[-1] == "s":
        if word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith(("sses", "shes", "ches", "xes")):
            word = word[:-2]
        elif not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    if word[-1] in "gd" and word.endswith(("ing", "ed")):
        root = word[:-3] if word[-1] == "g" else word[:-2]
        if len(root) > 2 and not _VOWELS.isdisjoint(root):
            word = root
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
    return word[:-1] if word[-1] == "e" and len(word) > 3 else word


def terms(text: str) -> Terms:
    """Return the distinct content words of a text as 32-bit hashes, at most `MAX_TERMS`."""
    return hashed(content(text))


def hashed(stems: Iterable[str]) -> Terms:
    """Return distinct stems as 32-bit hashes, at most `MAX_TERMS`."""
    found = [zlib.crc32(word.encode("utf-8", "replace")) for word in islice(stems, MAX_TERMS)]
    return np.array(found, dtype=np.uint32)


def merged(*several: Terms) -> Terms:
    """Return the terms of several texts in ascending order, each once."""
    # They are few: a set is faster than `np.unique`.
    return np.array(sorted({one for found in several for one in found.tolist()}), np.uint32)


# By which other words the subject of a key is asked for.
_SUBJECTS: Final = {
    "name": "called",
    "home": "live city town place house",
    "dwelling": "live home house flat",
    "origin": "grew born hometown come",
    "job": "work profession occupation living earn career employed",
    "employer": "work company job",
    "studies": "study student university school learn subject degree",
    "age": "old years",
    "birthday": "born birth",
    "children": "kids family sons daughters",
    "siblings": "brothers sisters family",
    "partner": "relationship dating together love husband wife boyfriend girlfriend",
    "wife": "partner married spouse",
    "husband": "partner married spouse",
    "girlfriend": "partner dating relationship",
    "boyfriend": "partner dating relationship",
    "relationship": "married single partner dating",
    "dog": "pet animal",
    "cat": "pet animal",
    "has": "own",
    "car": "drive vehicle own",
    "diet": "eat food vegetarian vegan",
    "allergic": "allergy allergies avoid eat",
    "likes": "enjoy love favourite hobby",
    "favourite": "like best prefer love",
    "plays": "play music instrument sport game",
    "speaks": "language speak",
    "mother": "parent mum mom family",
    "father": "parent dad family",
    "brother": "sibling family",
    "sister": "sibling family",
}


def key_term(about: str) -> Terms:
    """Return the one term that stands for a fact's key itself."""
    return np.array([zlib.crc32(b"\0" + about.encode("utf-8", "replace"))], dtype=np.uint32)


def fact_terms(text: str, about: str) -> Terms:
    """Return the terms of a fact: of its text, of its key and other words for it, and the key."""
    parts = [part for part in about.split(".") if part != "user"]
    subjects = [_SUBJECTS.get(part, "") for part in parts]
    found = merged(terms(" ".join([text, *parts, *subjects])))[: MAX_TERMS - 1]
    return np.concatenate([found, key_term(about)]) if about else found
