"""What a person says of themselves, as patterns of English: data for `memory.rules`.

A line at the margin says what a fact is: its key (`-` for none), its importance, how its value is
read (`memory.rule_values`), and its sentence. The patterns under it are for a whole part of a
sentence; a line further in goes on with the pattern before it. The first that fits a part is what
it says.

Key and sentence are filled with the pattern's groups: `{v}` is the value in the third person,
`{k}` the value as a part of a key, `{r}` a relation, `{p}` what else is said as it was.
"""

from typing import Final

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
PIECES: Final = {
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
"""Parts of patterns, by the word that stands for them in angle brackets."""

RULES: Final = r"""
# Who they are.
user.name 95 name: The user's name is {v}.
    my (?:full |first |real )?name(?:'s| is) <V>
user.name 95 name: The user is called {v}.
    (?:please |you can |just |everyone )?call me <V>
    <IM> called <V>
user.age 70 age: The user is {v} years old.
    <IM> <MUCH>(?P<v>\d{1,3})(?: years old| years of age| yo)?(?: now)?
user.age 70 age: The user turned {v}.
    <I>turned (?P<v>\d{1,3})(?: today| yesterday| last \w+| this \w+)?
user.birthday 85 few: The user's birthday is {v}.
    my birthday(?:'s| is) (?:on )?(?:the )?<V>
user.birthday 85 few: The user was born on {v}.
    i was born on (?:the )?<V>
user.birthyear 80 value: The user was born in {v}.
    i was born in (?P<v>(?:19|20)\d\d)
user.birthplace 70 place: The user was born in {v}.
    i was born (?:and raised )?in <V>
user.hometown 65 place: The user grew up in {v}.
    i grew up in <V>
user.origin 70 place: The user is from {v}.
    <IM> (?:originally )?from <V>

# Where they live.
user.home 80 place: The user lives in {v}.
    <WE>(?:live|reside)(?: back)? in <V>
    (?:<IM>|we are|we're) (?:<MUCH>)(?:living|based|settled) in <V>
    (?:<IVE>|we have|we've) been living in <V>
user.home 85 place: The user moved to {v} and lives there.
    (?:i|we|<IVE>|we've) (?:<MUCH>)moved (?:back |over |house |away )?to <V>
user.home 80 place: The user lives in {v}.
    <V> is (?:my )?(?:new )?home(?: now| from now on| these days)?
    my (?:new )?(?:flat|house|apartment|home|place) is (?:\w+ ){0,5}?(?:in|of) <V>
user.household 60 value: The user lives with {v}.
    i live with <V>
user.dwelling 50 value: The user lives {p} {v}.
    i live (?P<p>on|in|by|near) (?P<v>(?:an? |the ).+)

# What they do.
user.job 80 work: The user works as {v}.
    <I>work as <V>
    <AM>(?:working|employed) as <V>
    <I>started (?:(?:a|my) )?(?:new )?(?:job|work|working) as <V>
    <I>(?:became|got a job as|got hired as|was hired as|trained as) <V>
user.job 80 few: The user's work is {v}.
    my (?:new )?(?:job|profession|occupation|trade) is <V>
user.job 80 value: The user is {v} by trade.
    <AM>(?P<v>an? .+?) by (?:trade|profession)
user.job 75 value: The user is {r}.
    <AM>(?P<r>retired|unemployed|out of work|self-employed|between jobs)
user.job 75 value: The user is no longer in their old job.
    <I>(?:lost|quit|left) my (?:old )?job
user.job 80 trade: The user is {v}.
    <AM>(?P<v>an? .+)
user.employer 75 few: The user works {p} {v}.
    <I>work (?P<p>for|at) <V>
    <AM>working (?P<p>for|at) <V>
user.studies 70 few: The user studies {v}.
    (?:<AM>studying|<I>study) (?P<v>(?!hard|for|at|with|a lot).+)
    <AM>majoring in <V>

# Health and food.
user.allergic.{k} 90 few: The user is allergic to {v}.
    <AM>allergic to <V>
user.diet 75 value: The user is {r}.
    <AM>(?:an? )?(?:\w+ )?(?P<r>vegan|vegetarian|pescatarian|coeliac|celiac|lactose intolerant)
user.is.{r} 85 value: The user is {r}.
    <AM>(?P<r>diabetic|deaf|blind|dyslexic|autistic|epileptic|asthmatic|pregnant|
        colou?r ?-?blind|left-handed)
user.has.{r} 85 value: The user has {r}.
    (?:i have|i've got|i was diagnosed with) (?P<r>asthma|diabetes|adhd|epilepsy|arthritis|
        dyslexia|cancer|depression|anxiety|migraines|insomnia|tinnitus)

# Who is in their life.
user.partner.name 85 name: The user is married to {v}.
    <AM>married to <V>
user.partner.name 85 name: The user is together with {v}.
    <AM>(?:dating|seeing|engaged to|in love with|going out with|in a relationship with) <V>
user.relationship 80 value: The user is {r}.
    <AM>(?P<r>married|divorced|single|engaged|widowed|separated|in a relationship)
user.relationship 85 value: The user got {r}.
    <WE>got (?P<r>married|divorced|engaged)(?: (?:last|this) \w+| yesterday| today)?
user.partner.name 85 name: The user's {r} is called {v}.
    my (?:new |late )?(?P<r>partner|boyfriend|girlfriend|husband|wife|spouse|fianc\u00e9e?|
        fiancee?)(?:'s| is| is called| is named|'s name is|'s called) <V>
user.{r}.name 80 name: The user's {r} is called {v}.
    my (?:new |late |dear |old )?(?P<r><ONE>)(?:'s name is| is called| is named|'s called|
        's named) <V>
user.{r}.{k} 80 name: The user's {r} is called {v}.
    my (?:other |second |new |little |older |younger |big |late |old |eldest |youngest |best |
        first )*(?P<r><MANY>)(?:'s name is| is called| is named|'s called|'s named) <V>
user.{r}.{k} 75 name: The user's {r} is called {v}.
    <V> is (?:the name of )?my (?:\w+ )?(?P<r><MANY>)
user.{r}.{k} 80 name: The user has a {r} called {v}.
    <WE>(?:have|own|got|adopted|bought|'ve got) an? (?:[\w-]+ ){0,3}?(?P<r><MANY>)(?:,? (?:named|
        called)|,? (?:his|her|its|their) name is) <V>
user.number-of.{r} 75 few: The user has {v}.
    <WE>(?:have|have got) (?P<v><COUNT> (?:[\w-]+ ){0,2}?(?P<r><KIN>))
user.has.{k} 65 value: The user has {v}.
    <WE>(?:have|own|have got|adopted|just got|got) (?P<v><COUNT> (?:[\w-]+ ){0,3}?(?:<PETS>)
        (?:,? (?:named|called) .+|, [A-Z].+)?)
user.{r}.life 95 value: The user's {r} died.
    my (?:late |dear |old |poor |beloved )*(?P<r><ONE>|<MANY>)(?:,? [A-Z]\w+,?)? (?:has |just |
        sadly |recently )*(?:died|passed away)\b.*
user.{r}.job 55 trade: The user's {r} is {v}.
    my (?P<r><ONE>) (?:is|works as) (?P<v>an? .+)
- 50 trade: The user's {p}{r} is {v}.
    my (?P<p>(?:older |younger |big |little |eldest |youngest )*)(?P<r><MANY>) (?:is|
        works as) (?P<v>an? .+)

# What they like.
user.favourite.{r} 60 value: The user's favourite {r} is {v}.
    my <FAVOURITE> (?!parts?\b|things?\b|ones?\b|way|time|memor)
        (?P<r>[\w-]+(?: [\w-]+){0,2}?) (?:is|are|has to be) <V>
user.favourite.{r} 60 few: The user's favourite {r} is {v}.
    <V> (?:is|are) my <FAVOURITE> (?!parts?\b|things?\b|ones?\b)(?P<r>[\w-]+(?: [\w-]+)?)
        (?: too| as well| now)?
user.likes.{k} 50 value: The user hates {v}.
    <I>(?P<r>hate|can't stand|cannot stand|can't bear|loathe|despise|dislike) <V>
user.likes.{k} 50 value: The user does not like {v}.
    (?:i don't|i do not) (?:really |particularly )?(?:like|enjoy) <V>
user.likes.{k} 45 value: The user does not like {v}.
    <IM> not (?:a |an )?(?:big |huge |real )?fan of <V>
user.likes.{k} 45 value: The user likes {v}.
    <AM>(?:a )?(?:big |huge |massive )?fan of <V>
user.likes.{k} 45 value: The user loves {v}.
    <I>(?:love|adore) <V>
user.likes.{k} 40 value: The user likes {v}.
    <I>(?:like|enjoy) <V>
user.sport 60 few: The user's sport is {v}.
    my (?:new |favou?rite )?sport is <V>
user.sport 55 sport: The user does {v}.
    <I>(?:do|practi[sc]e|train|changed over to|changed to|took up|started) <V>
    <HAVE>(?:changed over to|changed to|taken up|started) <V>
user.plays.{k} 55 few: The user plays {v}.
    <I>play (?:the )?(?!for|on|with|in|at|a lot|a little|it)<V>
user.speaks.{k} 55 few: The user speaks {v}.
    <I>speak <V>
user.car 60 few: The user drives {v}.
    <I>drive (?P<v>an? .+)
- 45 few: The user bought {v}.
    <I>bought (?P<v>an? (?:new |used )?[A-Z].*?)(?: car| van)?

# What is no longer so.
user.home 80 place: The user no longer lives in {v}.
    i (?:no longer|don't|do not) live in <V>
user.job 75 few: The user no longer works {p} {v}.
    i no longer work (?P<p>as|at|for|in) <V>
user.likes.{k} 55 value: The user no longer likes {v}.
    i no longer (?:like|love|enjoy) <V>
user.does.{k} 55 few: The user no longer {r}s {v}.
    i no longer (?P<r>eat|drink|smoke|play|have|own|do|use|run|drive) <V>
user.does.{k} 55 few: The user stopped {v}.
    (?:i|<IVE>) (?:<MUCH>)(?:stopped|quit|given up|gave up) <V>
- 35 value: The user used to {v}.
    i used to <V>
"""
