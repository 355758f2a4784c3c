"""What the people of the evaluation tell of themselves, and how they ask for it much later.

All of it was written for this evaluation, in many wordings: some that a list of patterns finds,
many that it does not. Wordings with an even place are for tuning, those with an odd place for the
report, so that nothing is reported in words that anything was tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that holds of a person.

    Attributes:
        values: What it may be; each a string that stands in no other line of a history.
        says: How it is told, with the value at `{v}`.
        asks: How it is asked for.
        clash: Pattern of filler messages that speak of it too; they are left out.
        changes: How a later value is told; empty where it does not change.
        before: How the earlier value is asked for.
        others: The same of somebody else, with a value of its own: what must not be confused.
    """

    name: str
    values: tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]
    clash: str
    changes: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Several things that one question is about; each told at its own time.

    Attributes:
        parts: Values and wordings of each.
    """

    name: str
    parts: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    asks: tuple[str, ...]
    clash: str


CHANGING: tuple[Topic, ...] = (
    Topic(
        "city",
        ("Leeds", "Ghent", "Porto", "Tampere", "Cork", "Lyon", "Bergen", "Trieste", "Utrecht"),
        (
            "I live in {v}.",
            "I've been living in {v} for a while now.",
            "My flat is right in the middle of {v}.",
            "It rained all day here in {v}, as usual.",
            "From my window I can see half of {v}, which is the best thing about this flat.",
            "I pay far too much rent for {v}, if you ask me.",
        ),
        (
            "Which city do I live in these days?",
            "What town am I in now?",
            "Do you remember where my home is?",
            "If you came to visit me, where would you have to travel to?",
        ),
        r"\b(live|lives|lived|living|mov(e|ed|ing)|from|city|town|flat|apartment|rent|home)\b",
        changes=(
            "I moved to {v} last weekend!",
            "Boxes everywhere: I now live in {v}.",
            "We finally packed up and left, {v} is home from now on.",
            "The removal van came yesterday. First night in {v}, and I can't find my kettle.",
        ),
        before=(
            "Where did I live before I moved?",
            "What was the last place I lived in before this one?",
            "Which town did I leave when I packed up?",
            "Where was my flat before the removal van came?",
        ),
        others=(
            "My cousin just bought a place in Basel.",
            "A friend of mine lives in Odense and hates it.",
        ),
    ),
    Topic(
        "job",
        (
            "baker",
            "surveyor",
            "paramedic",
            "locksmith",
            "translator",
            "bookbinder",
            "beekeeper",
            "tram driver",
            "glazier",
        ),
        (
            "I work as a {v}.",
            "I'm a {v} by trade.",
            "They pay me as a {v}, not as a therapist, though some customers mix that up.",
            "Being a {v} means I get up when everybody else sleeps.",
            "Another day as a {v}, another aching back.",
            "People are always surprised when I say that I earn my money as a {v}.",
        ),
        (
            "What do I do for a living?",
            "What is my profession at the moment?",
            "How do I earn my money?",
            "If somebody asked you what my work is, what would you say?",
        ),
        r"\b(work|works|working|job|career|living|i'?m an? |i am an? |study|studying|business)",
        changes=(
            "I quit, and I'm a {v} now!",
            "I started my new job as a {v} on Monday.",
            "Big news from the job centre: they took me on as a {v}.",
            "New overalls, new colleagues: since this week I earn my bread as a {v}.",
        ),
        before=(
            "What was my job before the one I have now?",
            "What did I work as earlier, before I changed?",
            "Which profession did I give up?",
            "How did I earn my bread before the new colleagues?",
        ),
        others=(
            "My uncle has been a plumber all his life.",
            "The neighbour upstairs works as a florist.",
        ),
    ),
    Topic(
        "partner",
        ("Ines", "Tobias", "Marit", "Leander", "Noor", "Casper", "Yusuf", "Henrike", "Odile"),
        (
            "I'm dating {v}.",
            "My partner's name is {v}.",
            "{v} and I have been a couple since the spring.",
            "I spent the whole weekend with {v}, we can't keep our hands off each other.",
            "I think I'm in love with {v}.",
            "{v} kissed me goodbye this morning and I've been grinning since.",
        ),
        (
            "Who am I together with?",
            "What is my partner called?",
            "Who is the person I'm in love with at the moment?",
            "With whom am I in a relationship now?",
        ),
        r"\b(boyfriend|girlfriend|husband|wife|married|dating|partner|relationship|spouse|single)\b",
        changes=(
            "It's over between us. I'm seeing {v} now.",
            "My new partner is called {v}, and we are happy.",
            "You won't believe it, {v} asked me out and we are an item now.",
            "After the break-up I swore off love, and then {v} came along. We're together.",
        ),
        before=(
            "Who was I with before my current partner?",
            "What was my ex called?",
            "Who did I split up with?",
            "Which relationship of mine ended?",
        ),
        others=("My brother is dating somebody called Gudrun.", "Our boss got married to Pascal."),
    ),
    Topic(
        "drink",
        (
            "oat flat white",
            "lapsang tea",
            "cold brew",
            "mint tea",
            "espresso tonic",
            "dirty chai",
            "rooibos",
            "hot malt",
        ),
        (
            "My favourite drink is {v}.",
            "In the morning I always have {v}.",
            "Without my {v} I'm not human before nine.",
            "The café knows me, they start making a {v} when I come in.",
            "I'd sell my bicycle for a good {v} right now.",
            "The first thing that passes my lips every day is {v}.",
        ),
        (
            "What do I like to drink best?",
            "What should you order for me at the café?",
            "What do I have every morning?",
            "Which hot or cold drink is mine?",
        ),
        r"\b(coffee|tea|drink|drinks|drinking|café|espresso|latte|chai)\b",
        changes=(
            "I've switched, my favourite drink is {v} now.",
            "I only drink {v} these days.",
            "The doctor made me give up my usual one, so it's {v} every morning from now on.",
            "At the café they looked puzzled: I order {v} nowadays.",
        ),
        before=(
            "What did I use to drink before I switched?",
            "What was my usual order at the café earlier?",
            "Which drink did the doctor make me give up?",
            "What did I have in the mornings before?",
        ),
        others=("My flatmate lives on ginger ale.", "Dad only ever drinks buttermilk."),
    ),
    Topic(
        "car",
        (
            "Skoda",
            "Volvo",
            "Dacia",
            "old Saab",
            "Fiat Panda",
            "Twingo",
            "Land Rover",
            "camper van",
        ),
        (
            "I drive a {v}.",
            "I have a {v} with too many miles on it.",
            "The {v} wouldn't start this morning, I had to push it.",
            "I spent the afternoon washing the {v}.",
            "My {v} failed its inspection, the brakes again.",
            "There's a new dent in the {v}, somebody hit it in the car park.",
        ),
        (
            "What car do I drive?",
            "What kind of vehicle do I own?",
            "Which make would you look for if you had to find my car?",
            "What do I get around in?",
        ),
        r"\b(car|cars|drive|driving|truck|van|vehicle|ford|toyota|honda)\b",
        changes=(
            "I sold it, I drive a {v} now.",
            "I bought a {v} yesterday and traded the other one in.",
            "The old one went to the scrapyard. Meet its successor, the {v}.",
            "Guess who has the keys of a {v} on the kitchen table since today?",
        ),
        before=(
            "What car did I have before this one?",
            "What did I drive earlier?",
            "Which vehicle went to the scrapyard?",
            "What did I own before the new keys?",
        ),
        others=("My sister-in-law drives a Lancia.", "The neighbour polishes his Jaguar daily."),
    ),
    Topic(
        "sport",
        (
            "fencing",
            "bouldering",
            "rowing",
            "badminton",
            "judo",
            "synchronised swimming",
            "archery",
            "table tennis",
        ),
        (
            "I do {v} twice a week.",
            "My sport is {v}.",
            "My arms are sore from {v} again.",
            "Tuesday evenings belong to {v}, nobody may disturb me then.",
            "I got a silver medal in {v}, out of three people.",
            "I can't come on Thursday, that's when I have {v} practice.",
        ),
        (
            "Which sport do I do?",
            "How do I keep fit?",
            "What do I train for in the evenings?",
            "What physical activity am I doing currently?",
        ),
        r"\b(sport|sports|gym|exercise|workout|work out|training|run|running|swim|hik\w+|yoga)\b",
        changes=(
            "I gave that up, I do {v} now.",
            "My new sport is {v}.",
            "My knee said no, so I've changed over to {v}.",
            "The club closed down. They let me try {v} next door and I signed up.",
        ),
        before=(
            "What sport did I do before?",
            "Which training did I give up?",
            "What did I practise before my knee said no?",
            "Which club did I belong to before it closed down?",
        ),
        others=("My nephew is mad about lacrosse.", "A colleague broke a tooth at water polo."),
    ),
    Topic(
        "book",
        (
            "Middlemarch",
            "Dracula",
            "Moby-Dick",
            "The Leopard",
            "Emma",
            "Walden",
            "Rebecca",
            "Dune",
            "Oblomov",
        ),
        (
            "I'm reading {v} at the moment.",
            "My bedtime book is {v}.",
            "I fell asleep over {v} last night with the lamp on.",
            "Page two hundred of {v} and still nothing has happened.",
            "{v} lies on my nightstand and looks at me with reproach.",
            "I missed my stop because of {v}, the chapter was too good.",
        ),
        (
            "What am I reading?",
            "Which novel have I got going right now?",
            "What lies on my nightstand?",
            "Which book keeps me company in the evenings?",
        ),
        r"\b(book|books|read|reading|novel|author|library)\b",
        changes=(
            "I finished it! Now I'm reading {v}.",
            "I've put that one away and started {v}.",
            "On to the next one: {v} has taken its place on the nightstand.",
            "That one went back unread. I've opened {v} instead and I'm hooked.",
        ),
        before=(
            "What did I read before my current book?",
            "Which novel did I finish or put away?",
            "What was on my nightstand earlier?",
            "Which book went back?",
        ),
        others=("Mum is deep into Ulysses.", "Half of the office is reading Beloved."),
    ),
    Topic(
        "language",
        ("Finnish", "Welsh", "Korean", "Catalan", "Swahili", "Hungarian", "Georgian", "Icelandic"),
        (
            "I'm learning {v}.",
            "I've started to learn {v} in the evenings.",
            "Forty new words of {v} today and I've forgotten thirty already.",
            "My {v} teacher says that my accent is a crime.",
            "The grammar of {v} will be the death of me.",
            "I can order soup in {v} now, that's all so far.",
        ),
        (
            "Which language am I learning?",
            "What am I taking lessons in?",
            "Which grammar am I struggling with at present?",
            "Whose words do I try to keep in my head?",
        ),
        r"\b(language|languages|learn|learning|speak|spanish|french|german|lessons?)\b",
        changes=(
            "I dropped it, I'm learning {v} now.",
            "I've changed to {v}, the other class was full.",
            "That was hopeless, so I swapped courses. It's {v} on Wednesdays from here on.",
            "New teacher, new alphabet: they put me into {v}.",
        ),
        before=(
            "Which language did I try to learn before?",
            "What did I study before I swapped courses?",
            "Which class was I in earlier?",
            "Which lessons did I drop?",
        ),
        others=("My aunt speaks Maltese.", "The kids next door get taught in Basque."),
    ),
    Topic(
        "manager",
        ("Mrs Okafor", "Mr Lindqvist", "Ms Petrova", "Mr Adeyemi", "Mrs Halloran", "Mr Brandt"),
        (
            "My boss is called {v}.",
            "My manager is {v}.",
            "{v} wants the figures by Friday, and of course I'm the one to make them.",
            "I have to report to {v} and it's never a pleasure.",
            "{v} signed my holiday, finally!",
            "I got told off by {v} for being two minutes late.",
        ),
        (
            "Who is my boss?",
            "Who do I report to?",
            "What is the name of my manager now?",
            "Who decides about my holidays?",
        ),
        r"\b(boss|manager|supervisor)\b",
        changes=(
            "We've got a new boss, {v}.",
            "{v} is my manager now.",
            "There was a shuffle upstairs, and {v} runs our team from today.",
            "The corner office has a new name on its door: {v}. I report there now.",
        ),
        before=(
            "Who was my boss before?",
            "Who did I report to earlier?",
            "Who ran our team before the shuffle?",
            "Whose name was on the corner office before?",
        ),
        others=("My brother's boss is a certain Mr Quill.", "The school's head is Mrs Zander."),
    ),
    Topic(
        "instrument",
        ("oboe", "cello", "banjo", "accordion", "trombone", "harp", "mandolin", "bagpipes"),
        (
            "I play the {v}.",
            "I've been playing the {v} for years.",
            "The neighbours complained about my {v} again.",
            "My fingers hurt from practising the {v}.",
            "There's nothing like an hour with the {v} after a bad day.",
            "Our little orchestra has put me and my {v} in the last row.",
        ),
        (
            "Which instrument do I play?",
            "What do my neighbours hear me practise?",
            "What do I make music with?",
            "What would I bring along to a jam session?",
        ),
        r"\b(play|plays|playing|music|instrument|guitar|piano|band|orchestra)\b",
        changes=(
            "I've changed instruments, I play the {v} now.",
            "I sold mine and bought myself a {v}.",
            "My teacher talked me into the {v}, the other thing stays in its case.",
            "Since today one {v} more makes a noise in my house, it replaces the other one.",
        ),
        before=(
            "Which instrument did I play before?",
            "What did I play until I changed?",
            "Which instrument did I sell or put away?",
            "What stays in its case now?",
        ),
        others=("My niece got a ukulele.", "Grandad was known for his zither."),
    ),
)

FIXED: tuple[Topic, ...] = (
    Topic(
        "dog",
        ("Biscuit", "Pepper", "Waffle", "Ziggy", "Moppet", "Bruno", "Captain", "Truffle"),
        (
            "My dog is called {v}.",
            "I have a dog named {v}.",
            "{v} ate my slipper again, that hound will be the end of me.",
            "Had to carry {v} home through the rain, wet fur and all.",
            "The vet says that {v} must lose two kilos before the next ball gets thrown.",
            "{v} barked at the postman for ten minutes.",
        ),
        (
            "What is my dog's name?",
            "What do I shout when I want my dog to come back?",
            "Who do I take for walks in the park?",
            "What is the name of the animal that barks at my door?",
        ),
        r"\b(dog|dogs|puppy|pet|pets|vet)\b",
        others=("My neighbour's dog is called Sultan.", "The bakery has a cat called Mocha."),
    ),
    Topic(
        "sister",
        ("Agnes", "Beatriz", "Sunniva", "Imogen", "Rosalind", "Tamsin", "Wilma"),
        (
            "My sister's name is {v}.",
            "I have a sister, {v}.",
            "{v} and I shared a room until I was fifteen; that's what siblings are for.",
            "Mum always preferred {v} to me, she being the elder one.",
            "{v} called, our parents are driving her mad too.",
            "I'm going to be an uncle or an aunt, whichever: {v} is expecting!",
        ),
        (
            "What is my sister called?",
            "Which name did my parents give to their other daughter?",
            "Who did I share a room with as a child?",
            "Who is my sibling?",
        ),
        r"\b(sister|sisters|sibling|siblings|brother|brothers)\b",
        others=("My best friend's sister is called Hedda.",),
    ),
    Topic(
        "allergy",
        ("hazelnuts", "penicillin", "mussels", "latex", "celery", "wasp stings", "sesame"),
        (
            "I'm allergic to {v}.",
            "I can't have {v}, I'm badly allergic.",
            "My face swelled up like a balloon, {v} again.",
            "The doctor was strict: keep away from {v} or carry the pen.",
            "One time {v} put me into hospital for three days, I couldn't breathe.",
            "I always ask about {v} first, or else I end up in an ambulance.",
        ),
        (
            "What am I allergic to?",
            "What should nobody give me, for the sake of my health?",
            "What makes my face swell up?",
            "Because of what did I have to go to hospital?",
        ),
        r"\b(allerg\w+|hospital|doctor)\b",
        others=("My flatmate gets hives from strawberries.",),
    ),
    Topic(
        "birthday",
        ("3 March", "19 June", "27 October", "8 November", "30 April", "12 December", "21 August"),
        (
            "My birthday is on {v}.",
            "I was born on {v}.",
            "I get another candle on the cake on {v}.",
            "On {v} I turn a year older and pretend not to mind.",
            "Mum went into labour on {v}, in a taxi. That's how I came into the world.",
            "Mark {v} down: presents for me are welcome.",
        ),
        (
            "When is my birthday?",
            "On which day was I born?",
            "On which day should you congratulate me?",
            "Which date should you bake me a cake for?",
        ),
        r"\b(birthday|born|age|years old)\b",
        others=("My dad's birthday is on 5 January.",),
    ),
    Topic(
        "hometown",
        ("Whitby", "Bruges", "Gdansk", "Sligo", "Aarhus", "Perugia", "Lucerne", "Dundee"),
        (
            "I grew up in {v}.",
            "I'm originally from {v}.",
            "I spent my whole childhood in {v}, on a bicycle mostly.",
            "My old school in {v} has been torn down.",
            "When I was small we only had two streets to play in, that's {v} for you.",
            "You can still hear {v} in my vowels; one never quite leaves the place one comes from.",
        ),
        (
            "Where did I grow up?",
            "Where was my old school?",
            "In which place was I a child?",
            "Where does my accent come from?",
        ),
        r"\b(grew up|childhood|from|hometown|school|born)\b",
        others=("My grandmother was born in Riga.",),
    ),
    Topic(
        "fear",
        ("lifts", "moths", "dentists", "deep water", "clowns", "geese", "thunder", "needles"),
        (
            "I'm afraid of {v}.",
            "{v} scare me to death.",
            "I went pale when I saw them: {v}. I nearly fainted.",
            "My palms sweat at the mere thought of {v}.",
            "I walked up nine floors and round the block, because of {v}. Don't laugh.",
            "Whenever it comes to {v}, I run the other way, heart in my mouth.",
        ),
        (
            "What am I afraid of?",
            "What scares me?",
            "What makes my palms sweat?",
            "Which phobia do I have?",
        ),
        r"\b(afraid|scare\w*|fear\w*|terrified|phobia)\b",
        others=("My little cousin screams when she sees balloons.",),
    ),
    Topic(
        "studies",
        (
            "geology",
            "law",
            "theology",
            "botany",
            "statistics",
            "philosophy",
            "dentistry",
            "archaeology",
        ),
        (
            "I studied {v} at university.",
            "I have a degree in {v}.",
            "Five years of {v}, and what did it get me? A framed diploma.",
            "I dropped out of {v} two exams before the end.",
            "My professor of {v} still sends me Christmas cards.",
            "In my student days I wrote a thesis in {v} that nobody read.",
        ),
        (
            "What did I study?",
            "What is my degree in?",
            "Which subject did I take at university?",
            "What was my thesis in?",
        ),
        r"\b(study|studied|studying|degree|university|college|student|major)\b",
        others=("My cousin is doing a master's in acoustics.",),
    ),
    Topic(
        "tattoo",
        ("lighthouse", "fox", "compass", "swallow", "teapot", "anchor", "hedgehog"),
        (
            "I have a tattoo of a {v}.",
            "There's a {v} tattooed on my shoulder.",
            "The ink on my arm shows a {v}, in case you ever wonder.",
            "Two hours under the buzzing needle, and now a {v} sits on my ankle for good.",
            "Mum cried when she saw the {v} on my skin.",
            "My wrist has had a {v} on it since a very long night in Lisbon.",
        ),
        (
            "What is my tattoo of?",
            "What did I have drawn on my skin?",
            "What picture do I carry on my body?",
            "Which tattoo do I have?",
        ),
        r"\b(tattoo\w*|ink|needle)\b",
        others=("My barber has a dragon on his neck.",),
    ),
    Topic(
        "collection",
        (
            "thimbles",
            "tram tickets",
            "beer mats",
            "fossils",
            "snow globes",
            "typewriters",
            "postcards",
        ),
        (
            "I collect {v}.",
            "My hobby is collecting {v}.",
            "My shelves are bending: another box of {v} from the flea market.",
            "I own more than three hundred {v} by now, sorted by year.",
            "I paid a shameful price at an auction for some {v}, to complete the set.",
            "There's no room left in the hall because of all my {v}.",
        ),
        (
            "What do I collect?",
            "What do I look for at flea markets?",
            "What are my shelves full of?",
            "What did I bid for at an auction?",
        ),
        r"\b(collect\w*|hobby|hobbies|flea market|antique\w*)\b",
        others=("My grandfather collected stamps.",),
    ),
    Topic(
        "friend",
        ("Dagmar", "Cillian", "Priya", "Mehmet", "Solveig", "Bartek", "Anouk"),
        (
            "My best friend is {v}.",
            "{v} is my best friend.",
            "{v} has known me since kindergarten and still talks to me.",
            "If I ever needed to hide a body I'd call {v}.",
            "I tell {v} everything, and it has been so for twenty years.",
            "{v} and I have been thick as thieves for ages.",
        ),
        (
            "Who is my best friend?",
            "What is my closest friend called?",
            "Whom do I trust most among my friends?",
            "Who would I call when I'm in trouble?",
        ),
        r"\b(friend|friends|best friend)\b",
        others=("My mother plays cards with a Mrs Finch.",),
    ),
    Topic(
        "middle name",
        ("Aurelius", "Clementine", "Octavia", "Ambrose", "Philippa", "Barnaby"),
        (
            "My middle name is {v}.",
            "My second name is {v}, and I never use it.",
            "On my passport there's also {v}, after a great-grandparent. Nobody may call me that.",
            "The B-side of my first name is {v}.",
            "My parents slipped in {v} between first and last name.",
            "Between my first name and my surname hides an embarrassing {v}.",
        ),
        (
            "What is my middle name?",
            "What is my second first name?",
            "Which name of mine do I never use?",
            "What else is written on my passport besides my first name and surname?",
        ),
        r"\b(name|named|called)\b",
        others=("My cat's full name is Sir Reginald.",),
    ),
    Topic(
        "scar",
        ("ice skate", "tin can", "barbed wire", "bread knife", "swing", "lawnmower"),
        (
            "I have a scar on my chin from a {v}.",
            "This scar of mine? A {v} did that.",
            "Seven stitches! That's what you get when you fight with a {v}.",
            "My knee still shows where the {v} caught me when I was six.",
            "I was bleeding like a pig, all because of a {v}, and the mark never went away.",
            "There is a white line across my hand, courtesy of a {v}.",
        ),
        (
            "How did I get my scar?",
            "What did I injure myself with as a child?",
            "What did I need stitches because of?",
            "Where does the mark on my body come from?",
        ),
        r"\b(scar|scars|stitches|injur\w+|hurt)\b",
    ),
    Topic(
        "dish",
        ("moussaka", "pierogi", "paella", "goulash", "lasagne", "shakshuka", "fish pie"),
        (
            "My favourite food is {v}.",
            "I could eat {v} every day.",
            "Nobody makes {v} like my grandmother, I licked the plate.",
            "For my last meal I'd ask for {v}.",
            "You can wake me up at three in the morning for {v}.",
            "Sunday without {v} is no Sunday in my kitchen.",
        ),
        (
            "What is my favourite food?",
            "What should you cook if you wanted to please me?",
            "Which meal do I love most?",
            "What would I like to find on my plate?",
        ),
        r"\b(food|foods|eat|eating|cook\w*|pizza|meal|restaurant|dish)\b",
        others=("My boss only eats porridge.",),
    ),
)

GROUPS: tuple[Group, ...] = (
    Group(
        "pets",
        (
            (
                ("Sprocket", "Juno", "Pickle", "Otto"),
                (
                    "My cat is called {v}.",
                    "I have a cat named {v}.",
                    "{v} sat on my keyboard, purring.",
                    "{v} brought me a dead mouse this morning, how kind.",
                ),
            ),
            (
                ("Pavarotti", "Kiwi", "Mango", "Admiral"),
                (
                    "My parrot's name is {v}.",
                    "I own a parrot, {v}.",
                    "{v} has learnt a swear word and squawks it from the cage all day.",
                    "I came home and {v} had thrown all the seeds out of the cage.",
                ),
            ),
        ),
        (
            "What are my cat and my parrot called?",
            "Tell me the names of all my animals, the furry one and the feathered one.",
            "Who purrs and who squawks in my home?",
            "Which names do my pets have, cat and bird?",
        ),
        r"\b(cat|cats|pet|pets|parrot|bird|birds|kitten)\b",
    ),
    Group(
        "children",
        (
            (
                ("trampoline", "chess", "ballet", "trumpet"),
                (
                    "My daughter loves {v}.",
                    "My daughter has started {v}.",
                    "Three times a week I drive our girl to {v}.",
                    "Our eldest got a certificate for {v}, she's so proud.",
                ),
            ),
            (
                ("karate", "pottery", "origami", "ice hockey"),
                (
                    "My son does {v}.",
                    "My son is crazy about {v}.",
                    "Our boy spends his pocket money on {v}.",
                    "The little one came home from {v} with a grin, he's found his thing.",
                ),
            ),
        ),
        (
            "Which hobbies do my daughter and my son have?",
            "What do my children do in their free time?",
            "What are my two kids each keen on?",
            "Which activities should I pay for, for the girl and the boy?",
        ),
        r"\b(kid|kids|child|children|son|daughter|daughters|sons|boy|girl)\b",
    ),
    Group(
        "dinner",
        (
            (
                ("no dairy", "no gluten", "no sugar", "no egg"),
                (
                    "I eat {v}, my stomach can't take it.",
                    "It's {v} for me, doctor's orders.",
                    "I've been feeling much better since there is {v} on my plate.",
                    "My stomach thanks me for {v} at all.",
                ),
            ),
            (
                ("coriander", "olives", "mushrooms", "beetroot"),
                (
                    "My flatmate can't stand {v}.",
                    "My flatmate hates {v}.",
                    "The one I share the kitchen with leaves the room when there's {v}.",
                    "I put {v} in the stew and my flatmate made a face like a wet cat.",
                ),
            ),
        ),
        (
            "What must I leave out when I cook for me and my flatmate?",
            "I want to make dinner for both of us in the flat: what suits neither of us?",
            "Which ingredients are wrong for me, and which for my flatmate?",
            "What are my own and my flatmate's rules at the table?",
        ),
        r"\b(food|eat|eating|cook\w*|vegan|vegetarian|diet|flatmate|roommate|meat)\b",
    ),
    Group(
        "trip",
        (
            (
                ("Madeira", "Lapland", "Cyprus", "Patagonia"),
                (
                    "I'm going to {v} on holiday.",
                    "I've booked a trip to {v}.",
                    "The tickets are here: {v}, I'm coming!",
                    "I've got a picture of {v} above my desk and count the weeks.",
                ),
            ),
            (
                ("Gareth", "Lotte", "Emeka", "Ximena"),
                (
                    "{v} is coming along on my trip.",
                    "I'm travelling together with {v}.",
                    "{v} has agreed to share the tent and the cost of the holiday with me.",
                    "I asked {v} to come on the journey, and the suitcase is packed already.",
                ),
            ),
        ),
        (
            "Where am I going on holiday, and who comes with me?",
            "What is the plan for my trip: the place and the company?",
            "Which destination did I book, and who travels at my side?",
            "Remind me of my journey: where to, and with whom?",
        ),
        r"\b(trip|travel\w*|holiday|vacation|journey|visit\w*|flight)\b",
    ),
    Group(
        "parents",
        (
            (
                ("midwife", "piano tuner", "judge", "seamstress"),
                (
                    "My mother was a {v}.",
                    "My mum worked as a {v}.",
                    "Mum came home late all my youth, that's how it is when you're a {v}.",
                    "Everybody in our village knew Mum, she being the {v}.",
                ),
            ),
            (
                ("miner", "lighthouse keeper", "watchmaker", "butcher"),
                (
                    "My father was a {v}.",
                    "My dad worked as a {v}.",
                    "Dad had the hands of a {v}, and the patience of one.",
                    "Dad's whole family were {v} people, so he became one as well.",
                ),
            ),
        ),
        (
            "What did my parents do for a living?",
            "Which jobs did my mother and my father have?",
            "How did Mum and Dad earn their money?",
            "Of which trades were my parents?",
        ),
        r"\b(mother|father|mom|mum|dad|parents|family)\b",
    ),
)

EVENTS: tuple[Topic, ...] = (
    Topic(
        "swim",
        ("aged nine", "aged eleven", "aged thirty", "aged forty"),
        (
            "I learned to swim {v}.",
            "I only learnt swimming {v}, imagine.",
            "The lake and I made friends late: I could keep my head above water {v}, not before.",
            "I let go of the edge of the pool for the first time {v}.",
        ),
        (
            "How old was I when I learned to swim?",
            "At what age could I swim?",
            "When did I lose my armbands and stay afloat?",
            "Since what age have I been able to keep afloat?",
        ),
        r"\b(swim\w*|pool|lake)\b",
    ),
    Topic(
        "smoking",
        ("in 2011", "in 2015", "in 2018", "in 2020"),
        (
            "I stopped smoking {v}.",
            "I quit smoking {v}.",
            "My last cigarette was {v}, and I still dream of it.",
            "The lighter has been lying in the drawer since I threw the packet away {v}.",
        ),
        (
            "When did I quit smoking?",
            "In which year did I stop smoking?",
            "Since when have I been free of cigarettes?",
            "In which year did I have my last one, tobacco I mean?",
        ),
        r"\b(smok\w+|cigarette\w*)\b",
    ),
    Topic(
        "house",
        ("in 1999", "in 2006", "in 2009", "in 2017"),
        (
            "We bought our house {v}.",
            "I bought the cottage {v}.",
            "The bank gave us the mortgage {v}, and the roof has leaked ever since.",
            "We got the keys to the four walls of our own {v}.",
        ),
        (
            "When did I buy my house?",
            "In what year did the property become mine?",
            "Since when have I had a mortgage?",
            "In which year did I become an owner of four walls?",
        ),
        r"\b(house|cottage|mortgage|bought|property)\b",
    ),
    Topic(
        "marathon",
        ("in 2003", "in 2010", "in 2016", "in 2019"),
        (
            "I ran my first marathon {v}.",
            "My first marathon was {v}.",
            "Forty-two kilometres and a lost toenail, that was me {v}.",
            "I crossed the finish line crying {v}, number 4711 on my chest.",
        ),
        (
            "When did I run my first marathon?",
            "In which year was my first marathon?",
            "When did I lose a toenail on the road?",
            "In which year did I do the forty-two kilometres?",
        ),
        r"\b(marathon|race|run|running|runner)\b",
    ),
    Topic(
        "wedding",
        ("in May 2013", "in July 2016", "in September 2019", "in February 2021"),
        (
            "I got married {v}.",
            "We had our wedding {v}.",
            "We said yes to each other {v}, under umbrellas.",
            "The rings were put on {v}, and my uncle danced on the table.",
        ),
        (
            "When was my wedding?",
            "When did I get married?",
            "When did I say yes?",
            "In which month and year do I have my anniversary?",
        ),
        r"\b(married|marry|wedding|husband|wife|anniversary)\b",
    ),
    Topic(
        "surgery",
        ("in 2008", "in 2012", "in 2014", "in 2022"),
        (
            "I had my appendix out {v}.",
            "They took out my appendix {v}.",
            "The surgeon opened me up {v}, it nearly burst.",
            "I woke up without an appendix {v}, with a drip in my arm.",
        ),
        (
            "When did I have my operation?",
            "In which year was my appendix taken out?",
            "When did a surgeon have to open me up?",
            "Which year was I in theatre, under anaesthesia?",
        ),
        r"\b(surger\w+|surgeon|operation|hospital|appendix)\b",
    ),
)

NEVER: tuple[str, ...] = (
    "What is my blood type?",
    "Which bank do I have my account with?",
    "What is the name of my dentist?",
    "What colour is my front door?",
    "Which political party did I vote for?",
    "How tall am I?",
    "What is my shoe size?",
    "What did I call my first doll?",
    "Which floor do I live on?",
    "Who taught me how to ride a bicycle?",
    "What was my maths grade in the final exam?",
    "What is my star sign's element?",
    "What was the name of my landlady in Vienna?",
    "Which perfume do I wear?",
    "How much did I pay for my sofa?",
    "What does my grandfather's watch have engraved on it?",
)

LEADS: tuple[str, ...] = (
    "Something else. {s}",
    "{s} Anyway, how was your day?",
    "Did I mention it? {s}",
    "Oh, and another thing. {s}",
    "{s} But enough of me.",
    "Sorry, I'm a bit slow today. {s}",
    "{s} What do you think of that?",
    "I meant to tell you. {s}",
)

REPLIES: tuple[str, ...] = (
    "Thank you for telling me!",
    "Oh, that is good to know.",
    "Really? Tell me more about that.",
    "Ha, I can picture it.",
    "I see. And how do you feel about it?",
    "That sounds like you!",
    "{v}! Who would have thought.",
    "Well, well. {v}, you say?",
    "Goodness. I'd never have guessed.",
    "That made me smile.",
)
