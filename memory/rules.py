"""What a person says of themselves, found by patterns: for engines that follow no instructions.

English only, and rather too little than too much: of what is asked, imagined, quoted, played or
said of somebody else, nothing is taken. Every fact is built of the message's own words.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from memory.facts import Learned, canonical
from memory.kinds import MAX_FACT_CHARS
from memory.words import STOP, words

MAX_LEARNED: Final = 8  # from one message
_MAX_CHARS: Final = 4000
_MAX_VALUE_WORDS: Final = 9

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
_ONE: Final = (
    "wife|husband|partner|girlfriend|boyfriend|fianc\u00e9e?|fiancee?|mother|mum|mom|father|dad|"
    "boss|spouse|grandmother|grandfather|grandma|grandpa|landlord|landlady|flatmate|roommate|"
    "best friend|stepmother|stepfather|mother-in-law|father-in-law"
)
_MANY: Final = (
    "dog|cat|puppy|kitten|pet|bird|parrot|horse|pony|rabbit|hamster|fish|son|daughter|brother|"
    "sister|friend|cousin|aunt|uncle|nephew|niece|colleague|neighbou?r|teacher|grandson|"
    "granddaughter|stepson|stepdaughter|child|kid|baby"
)
_KIN: Final = "kids?|children|sons?|daughters?|brothers?|sisters?|siblings?|grandchildren"
_PETS: Final = (
    "dogs?|cats?|pupp(?:y|ies)|kittens?|parrots?|birds?|horses?|pon(?:y|ies)|rabbits?|hamsters?|"
    "fish|goldfish|tortoises?|turtles?|snakes?|lizards?|chickens?|guinea pigs?|ferrets?"
)
# Parts of patterns, by the word that stands for them.
_PIECES: Final = {
    "WE": "(?:i|we) <MUCH>",
    "I": "i <MUCH>",
    "AM": "<IM> <MUCH>",
    "HAVE": "<IVE> <MUCH>",
    "FAVOURITE": "(?:all-time |absolute |new |current )?favou?rite",
    "IM": r"(?:i am|i'm|im)",
    "IVE": r"(?:i have|i've|ive)",
    "MUCH": r"(?:(?:really|absolutely|truly|just|also|still|now|currently|always|simply|totally|"
    r"quite|recently|finally|especially|particularly|mostly|only|already|definitely|actually|"
    r"both|usually|often|even|dearly|generally|do|since) )*",
    "COUNT": r"(?:\d{1,2}|an?|one|two|three|four|five|six|seven|eight|nine|ten|twin|no)",
    "ONE": _ONE,
    "MANY": _MANY,
    "KIN": _KIN,
    "PETS": _PETS,
    "V": r"(?P<v>.+)",
}

Take = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern for a whole part of a sentence, and what it says.

    `text` and `about` are filled with the pattern's groups: `{v}` is the value in the third person,
    `{k}` the value as a part of a key, `{r}` a relation. `take` returns the value as it may be
    kept, or nothing.
    """

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


def _trimmed(value: str) -> str:
    """Return a value without what is said around it; nothing where it names nothing."""
    value = value.strip(" ,.!-\u2013\u2014")
    while (shorter := _FILLER.sub("", value)) != value:
        value = shorter.strip(" ,")
    if len(value.split()) > _MAX_VALUE_WORDS or _NOTHING.match(value):
        return ""
    return value if re.search(r"\w\w", value) and not _POINTING.search(value) else ""


def _name(value: str) -> str:
    """Return the name at the beginning, where nothing follows that belongs to it."""
    match = _NAMES.match(_FILLER.sub("", value.strip(" ,.!")))
    return match[1] if match and match[1].split()[0] not in _NO_NAMES else ""


def _place(value: str) -> str:
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


def _rule(pattern: str, text: str, about: str, importance: int, take: Take = _trimmed) -> _Rule:
    for name, piece in _PIECES.items():
        pattern = pattern.replace(f"<{name}>", piece)
    return _Rule(re.compile(pattern, re.IGNORECASE), text, about, importance, take)


# The first that fits a part is what it says.
_RULES: Final = (
    # Who they are.
    _rule(
        r"my (?:full |first |real )?name(?:'s| is) <V>",
        "The user's name is {v}.",
        "user.name",
        95,
        _name,
    ),
    _rule(
        r"(?:please |you can |just |everyone )?call me <V>",
        "The user is called {v}.",
        "user.name",
        95,
        _name,
    ),
    _rule(r"<IM> called <V>", "The user is called {v}.", "user.name", 95, _name),
    _rule(
        r"<IM> <MUCH>(?P<v>\d{1,3})(?: years old| years of age| yo)?(?: now)?",
        "The user is {v} years old.",
        "user.age",
        70,
        _age,
    ),
    _rule(
        r"<I>turned (?P<v>\d{1,3})(?: today| yesterday| last \w+| this \w+)?",
        "The user turned {v}.",
        "user.age",
        70,
        _age,
    ),
    _rule(
        r"my birthday(?:'s| is) (?:on )?(?:the )?<V>",
        "The user's birthday is {v}.",
        "user.birthday",
        85,
        _few,
    ),
    _rule(r"i was born on (?:the )?<V>", "The user was born on {v}.", "user.birthday", 85, _few),
    _rule(r"i was born in (?P<v>(?:19|20)\d\d)", "The user was born in {v}.", "user.birthyear", 80),
    _rule(
        r"i was born (?:and raised )?in <V>",
        "The user was born in {v}.",
        "user.birthplace",
        70,
        _place,
    ),
    _rule(r"i grew up in <V>", "The user grew up in {v}.", "user.hometown", 65, _place),
    _rule(r"<IM> (?:originally )?from <V>", "The user is from {v}.", "user.origin", 70, _place),
    # Where they live.
    _rule(
        r"<WE>(?:live|reside)(?: back)? in <V>",
        "The user lives in {v}.",
        "user.home",
        80,
        _place,
    ),
    _rule(
        r"(?:<IM>|we are|we're) (?:<MUCH>)(?:living|based|settled) in <V>",
        "The user lives in {v}.",
        "user.home",
        80,
        _place,
    ),
    _rule(
        r"(?:<IVE>|we have|we've) been living in <V>",
        "The user lives in {v}.",
        "user.home",
        80,
        _place,
    ),
    _rule(
        r"(?:i|we|<IVE>|we've) (?:<MUCH>)moved (?:back |over |house |away )?to <V>",
        "The user moved to {v} and lives there.",
        "user.home",
        85,
        _place,
    ),
    _rule(
        r"<V> is (?:my )?(?:new )?home(?: now| from now on| these days)?",
        "The user lives in {v}.",
        "user.home",
        80,
        _place,
    ),
    _rule(
        r"my (?:new )?(?:flat|house|apartment|home|place) is (?:\w+ ){0,5}?(?:in|of) <V>",
        "The user lives in {v}.",
        "user.home",
        80,
        _place,
    ),
    _rule(r"i live with <V>", "The user lives with {v}.", "user.household", 60),
    _rule(
        r"i live (?P<p>on|in|by|near) (?P<v>(?:an? |the ).+)",
        "The user lives {p} {v}.",
        "user.dwelling",
        50,
    ),
    # What they do.
    _rule(r"<I>work as <V>", "The user works as {v}.", "user.job", 80, _as_work),
    _rule(
        r"<AM>(?:working|employed) as <V>",
        "The user works as {v}.",
        "user.job",
        80,
        _as_work,
    ),
    _rule(
        r"<I>started (?:(?:a|my) )?(?:new )?(?:job|work|working) as <V>",
        "The user works as {v}.",
        "user.job",
        80,
        _as_work,
    ),
    _rule(
        r"<I>(?:became|got a job as|got hired as|was hired as|trained as) <V>",
        "The user works as {v}.",
        "user.job",
        80,
        _as_work,
    ),
    _rule(
        r"my (?:new )?(?:job|profession|occupation|trade) is <V>",
        "The user's work is {v}.",
        "user.job",
        80,
        _few,
    ),
    _rule(
        r"<AM>(?P<v>an? .+?) by (?:trade|profession)",
        "The user is {v} by trade.",
        "user.job",
        80,
    ),
    _rule(
        r"<AM>(?P<r>retired|unemployed|out of work|self-employed|between jobs)",
        "The user is {r}.",
        "user.job",
        75,
    ),
    _rule(
        r"<I>(?:lost|quit|left) my (?:old )?job",
        "The user is no longer in their old job.",
        "user.job",
        75,
    ),
    _rule(r"<AM>(?P<v>an? .+)", "The user is {v}.", "user.job", 80, _a_trade),
    _rule(r"<I>work (?P<p>for|at) <V>", "The user works {p} {v}.", "user.employer", 75, _few),
    _rule(
        r"<AM>working (?P<p>for|at) <V>",
        "The user works {p} {v}.",
        "user.employer",
        75,
        _few,
    ),
    _rule(
        r"(?:<AM>studying|<I>study) (?P<v>(?!hard|for|at|with|a lot).+)",
        "The user studies {v}.",
        "user.studies",
        70,
        _few,
    ),
    _rule(r"<AM>majoring in <V>", "The user studies {v}.", "user.studies", 70, _few),
    # Health and food.
    _rule(
        r"<AM>allergic to <V>",
        "The user is allergic to {v}.",
        "user.allergic.{k}",
        90,
        _few,
    ),
    _rule(
        r"<AM>(?:an? )?(?:\w+ )?(?P<r>vegan|vegetarian|pescatarian|coeliac|celiac|lactose "
        r"intolerant)",
        "The user is {r}.",
        "user.diet",
        75,
    ),
    _rule(
        r"<AM>(?P<r>diabetic|deaf|blind|dyslexic|autistic|epileptic|asthmatic|pregnant|"
        r"colou?r ?-?blind|left-handed)",
        "The user is {r}.",
        "user.is.{r}",
        85,
    ),
    _rule(
        r"(?:i have|i've got|i was diagnosed with) (?P<r>asthma|diabetes|adhd|epilepsy|"
        r"arthritis|dyslexia|cancer|depression|anxiety|migraines|insomnia|tinnitus)",
        "The user has {r}.",
        "user.has.{r}",
        85,
    ),
    # Who is in their life.
    _rule(
        r"<AM>married to <V>",
        "The user is married to {v}.",
        "user.partner.name",
        85,
        _name,
    ),
    _rule(
        r"<AM>(?:dating|seeing|engaged to|in love with|going out with|in a relationship with) "
        r"<V>",
        "The user is together with {v}.",
        "user.partner.name",
        85,
        _name,
    ),
    _rule(
        r"<AM>(?P<r>married|divorced|single|engaged|widowed|separated|in a relationship)",
        "The user is {r}.",
        "user.relationship",
        80,
    ),
    _rule(
        r"<WE>got (?P<r>married|divorced|engaged)(?: (?:last|this) \w+| yesterday| today)?",
        "The user got {r}.",
        "user.relationship",
        85,
    ),
    _rule(
        r"my (?:new |late )?(?P<r>partner|boyfriend|girlfriend|husband|wife|spouse|"
        r"fianc\u00e9e?|fiancee?)(?:'s| is| is called| is named|'s name is|'s called) <V>",
        "The user's {r} is called {v}.",
        "user.partner.name",
        85,
        _name,
    ),
    _rule(
        r"my (?:new |late |dear |old )?(?P<r><ONE>)(?:'s name is| is called| is named|'s "
        r"called|'s named) <V>",
        "The user's {r} is called {v}.",
        "user.{r}.name",
        80,
        _name,
    ),
    _rule(
        r"my (?:other |second |new |little |older |younger |big |late |old |eldest |youngest |"
        r"best |first )*(?P<r><MANY>)(?:'s name is| is called| is named|'s called|'s named) "
        r"<V>",
        "The user's {r} is called {v}.",
        "user.{r}.{k}",
        80,
        _name,
    ),
    _rule(
        r"<V> is (?:the name of )?my (?:\w+ )?(?P<r><MANY>)",
        "The user's {r} is called {v}.",
        "user.{r}.{k}",
        75,
        _name,
    ),
    _rule(
        r"<WE>(?:have|own|got|adopted|bought|'ve got) an? (?:[\w-]+ ){0,3}?(?P<r><MANY>)(?:,? "
        r"(?:named|called)|,? (?:his|her|its|their) name is) <V>",
        "The user has a {r} called {v}.",
        "user.{r}.{k}",
        80,
        _name,
    ),
    _rule(
        r"<WE>(?:have|have got) (?P<v><COUNT> (?:[\w-]+ ){0,2}?(?P<r><KIN>))",
        "The user has {v}.",
        "user.number-of.{r}",
        75,
        _few,
    ),
    _rule(
        r"<WE>(?:have|own|have got|adopted|just got|got) (?P<v><COUNT> (?:[\w-]+ ){0,3}?(?:<PETS>)"
        r"(?:,? (?:named|called) .+|, [A-Z].+)?)",
        "The user has {v}.",
        "user.has.{k}",
        65,
    ),
    _rule(
        r"my (?:late |dear |old |poor |beloved )*(?P<r><ONE>|<MANY>)(?:,? [A-Z]\w+,?)? "
        r"(?:has |just |sadly |recently )*(?:died|passed away)\b.*",
        "The user's {r} died.",
        "user.{r}.life",
        95,
    ),
    _rule(
        r"my (?P<r><ONE>) (?:is|works as) (?P<v>an? .+)",
        "The user's {r} is {v}.",
        "user.{r}.job",
        55,
        _a_trade,
    ),
    _rule(
        r"my (?P<p>(?:older |younger |big |little |eldest |youngest )*)(?P<r><MANY>) "
        r"(?:is|works as) (?P<v>an? .+)",
        "The user's {p}{r} is {v}.",
        "",
        50,
        _a_trade,
    ),
    # What they like.
    _rule(
        r"my <FAVOURITE> (?!parts?\b|things?\b|ones?\b|way|time|memor)(?P<r>[\w-]+(?: "
        r"[\w-]+){0,2}?) (?:is|are|has to be) <V>",
        "The user's favourite {r} is {v}.",
        "user.favourite.{r}",
        60,
    ),
    _rule(
        r"<V> (?:is|are) my <FAVOURITE> (?!parts?\b|things?\b|ones?\b)(?P<r>[\w-]+(?: "
        r"[\w-]+)?)(?: too| as well| now)?",
        "The user's favourite {r} is {v}.",
        "user.favourite.{r}",
        60,
        _few,
    ),
    _rule(
        r"<I>(?P<r>hate|can't stand|cannot stand|can't bear|loathe|despise|dislike) <V>",
        "The user hates {v}.",
        "user.likes.{k}",
        50,
    ),
    _rule(
        r"(?:i don't|i do not) (?:really |particularly )?(?:like|enjoy) <V>",
        "The user does not like {v}.",
        "user.likes.{k}",
        50,
    ),
    _rule(
        r"<IM> not (?:a |an )?(?:big |huge |real )?fan of <V>",
        "The user does not like {v}.",
        "user.likes.{k}",
        45,
    ),
    _rule(
        r"<AM>(?:a )?(?:big |huge |massive )?fan of <V>",
        "The user likes {v}.",
        "user.likes.{k}",
        45,
    ),
    _rule(r"<I>(?:love|adore) <V>", "The user loves {v}.", "user.likes.{k}", 45),
    _rule(r"<I>(?:like|enjoy) <V>", "The user likes {v}.", "user.likes.{k}", 40),
    _rule(
        r"my (?:new |favou?rite )?sport is <V>", "The user's sport is {v}.", "user.sport", 60, _few
    ),
    _rule(
        r"<I>(?:do|practi[sc]e|train|changed over to|changed to|took up|started) <V>",
        "The user does {v}.",
        "user.sport",
        55,
        _sport,
    ),
    _rule(
        r"<HAVE>(?:changed over to|changed to|taken up|started) <V>",
        "The user does {v}.",
        "user.sport",
        55,
        _sport,
    ),
    _rule(
        r"<I>play (?:the )?(?!for|on|with|in|at|a lot|a little|it)<V>",
        "The user plays {v}.",
        "user.plays.{k}",
        55,
        _few,
    ),
    _rule(r"<I>speak <V>", "The user speaks {v}.", "user.speaks.{k}", 55, _few),
    _rule(r"<I>drive (?P<v>an? .+)", "The user drives {v}.", "user.car", 60, _few),
    _rule(
        r"<I>bought (?P<v>an? (?:new |used )?[A-Z].*?)(?: car| van)?",
        "The user bought {v}.",
        "",
        45,
        _few,
    ),
    # What is no longer so.
    _rule(
        r"i (?:no longer|don't|do not) live in <V>",
        "The user no longer lives in {v}.",
        "user.home",
        80,
        _place,
    ),
    _rule(
        r"i no longer work (?P<p>as|at|for|in) <V>",
        "The user no longer works {p} {v}.",
        "user.job",
        75,
        _few,
    ),
    _rule(
        r"i no longer (?:like|love|enjoy) <V>",
        "The user no longer likes {v}.",
        "user.likes.{k}",
        55,
    ),
    _rule(
        r"i no longer (?P<r>eat|drink|smoke|play|have|own|do|use|run|drive) <V>",
        "The user no longer {r}s {v}.",
        "user.does.{k}",
        55,
        _few,
    ),
    _rule(
        r"(?:i|<IVE>) (?:<MUCH>)(?:stopped|quit|given up|gave up) <V>",
        "The user stopped {v}.",
        "user.does.{k}",
        55,
        _few,
    ),
    _rule(r"i used to <V>", "The user used to {v}.", "", 35),
)


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
