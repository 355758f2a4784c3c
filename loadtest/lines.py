"""Small talk of our own, for machines without a data set: what a person might tell a persona."""

from __future__ import annotations

DIALOGUES: tuple[tuple[str, ...], ...] = (
    (
        "Hello there. How is your evening?",
        "Mine was long. The tram stood still for an hour in the rain.",
        "I read half a novel in that time, so I cannot complain too much.",
        "It is about a lighthouse keeper who writes letters to a stranger.",
        "Would you write letters to somebody you had never met?",
        "I think I would. It is easier to be honest with a stranger.",
        "Remind me tomorrow to finish that book, will you?",
    ),
    (
        "Good morning! I baked bread for the first time today.",
        "It came out flat as a plate, but it tastes wonderful.",
        "My grandmother used to put caraway seeds in hers.",
        "What would you put into a loaf, if you could choose?",
        "I will try that on Sunday and tell you how it went.",
    ),
    (
        "I have a job interview on Thursday and I am nervous.",
        "It is for a small museum. I would look after the clocks.",
        "I have repaired clocks since I was twelve, but never for money.",
        "They will ask why I want to leave the post office.",
        "How would you answer that without sounding bitter?",
        "That is better than what I had. Let me practise it once more.",
        "Ask me something difficult, as they would.",
        "Thank you. I feel a little calmer now.",
    ),
    (
        "Do you remember what I told you about my cat?",
        "She is called Pepper, and she is afraid of umbrellas.",
        "Yesterday she hid in the bathtub until the sun came out.",
        "Do you think animals dream about weather?",
        "I hope she dreams of fish.",
    ),
    (
        "I cannot sleep. Talk to me about something quiet.",
        "Tell me about snow on a harbour, for instance.",
        "I grew up inland, so the sea still feels like a secret to me.",
        "My brother lives by the water now and we hardly speak.",
        "It was a quarrel about nothing. About a bicycle, in fact.",
        "Should I be the one who calls first?",
        "Perhaps I will call him on his birthday.",
        "Good night, and thank you for listening.",
    ),
    (
        "What is seven times eight? I always forget.",
        "My daughter asked me and I said fifty-four with great confidence.",
        "She is eight and keeps a list of my mistakes.",
        "She wants to become an astronaut or a vet, or both.",
        "What does a vet on the moon do all day?",
        "I will read her your answer at breakfast.",
        "She says you are funnier than I am.",
    ),
)
