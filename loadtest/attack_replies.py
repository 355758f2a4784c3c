"""Replies on two topics, and a server that gives them at a model's pace.

The replies are what people wrote in Synthetic-Persona-Chat (see `loadtest.scenarios`): the line
after a question about work, and the line after a question about books. The server stands where a
model server would, behind the enclave's `openai` engine, so that everything around it is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from aiohttp import web
from tokenizers import Tokenizer

from loadtest.scenarios import COLUMN
from runtime.enclave.engines.embedded import TOY_FOLDER
from runtime.errors import SetupError
from transport.sse import encode_event

MODEL = "paced-replies"
_SAID = re.compile(r"^[ \t]*\*?[ \t]*User ([12]):[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)
TOPICS: Mapping[str, re.Pattern[str]] = {
    "work": re.compile(
        r"\b(for a living|for work|your job|your work|you work|your career|occupation)\b", re.I
    ),
    "books": re.compile(r"\b(books?|reading|authors?|read)\b", re.I),
}
"""A question is on a topic if it has one of these words, and on no topic if it has both's."""

# The pace of a model that is not in a hurry, the same for both topics. Log-normal, because a late
# token is later than an early one is early.
FIRST_TOKEN_S, FIRST_TOKEN_SPREAD = 0.25, 0.3
TOKEN_S, TOKEN_SPREAD = 0.03, 0.25


@dataclass(frozen=True, slots=True)
class Reply:
    """What a persona says when asked.

    Attributes:
        topic: Index in `TOPICS`.
        dialogue: Where it comes from; no classifier sees one in training and in its test.
        question: What was asked.
        text: What was answered.
    """

    topic: int
    dialogue: int
    question: str
    text: str


def load_replies(path: Path, count: int, seed: int = 0) -> list[Reply]:
    """Choose `count` replies of each topic from a CSV of the data set.

    Raises:
        SetupError: It cannot be read, or has fewer.
    """
    found: list[list[Reply]] = [[] for _ in TOPICS]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for dialogue, row in enumerate(csv.DictReader(file)):
                for reply in _replies(dialogue, row.get(COLUMN) or ""):
                    found[reply.topic].append(reply)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(
            f"the dialogues {path} cannot be read ({error}); pass a CSV file of "
            "Synthetic-Persona-Chat with --dialogues",
            code="dialogues",
        ) from error
    if min(map(len, found)) < count:
        raise SetupError(
            f"{path} has {' and '.join(str(len(one)) for one in found)} replies on "
            f"{' and '.join(TOPICS)}, fewer than the {count} asked for; ask for fewer --replies",
            code="dialogues",
        )
    rng = random.Random(f"replies {seed}")
    return [reply for replies in found for reply in rng.sample(replies, count)]


def _replies(dialogue: int, conversation: str) -> list[Reply]:
    """The lines that follow a question of the other side on exactly one topic."""
    replies = []
    for (asking, question), (answering, text) in itertools.pairwise(_SAID.findall(conversation)):
        topics = [n for n, words in enumerate(TOPICS.values()) if words.search(question)]
        if asking != answering and "?" in question and len(topics) == 1:
            replies.append(Reply(topics[0], dialogue, question, text))
    return replies


def message_of(number: int, question: str) -> str:
    """What a device asks so that the server gives reply `number`."""
    return f"{number:05d} {question}"


class PacedModel:
    """An OpenAI-compatible server of replies.

    Args:
        replies: By number, as `message_of` asks for them. A reply's pace depends on its number
            and on no more, so that it is the same however it is shaped.
        token_s: The median pause between tokens, seconds.
    """

    def __init__(self, replies: Sequence[Reply], *, token_s: float = TOKEN_S) -> None:
        self._texts = [reply.text for reply in replies]
        self._token_s = token_s
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(TOY_FOLDER / "tokenizer.json"))

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on a free port of loopback; the address for the engine."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = orjson.loads(await request.read())["messages"][-1]["content"]
        number = int(asked.split(" ", 1)[0])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        rng = random.Random(f"pace {number}")
        due = time.perf_counter() + FIRST_TOKEN_S * rng.lognormvariate(0, FIRST_TOKEN_SPREAD)
        for token in self.tokens(self._texts[number]):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += self._token_s * rng.lognormvariate(0, TOKEN_SPREAD)
            delta = {"choices": [{"delta": {"content": token}, "finish_reason": None}]}
            await response.write(encode_event(delta))
        await response.write(encode_event({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        await response.write(b"data: [DONE]\n\n")
        return response

    def tokens(self, text: str) -> list[str]:
        """The text in the tokens of the embedded model, each of whole characters."""
        ends = [0, *(end for _, end in self._tokenizer.encode(text).offsets)]
        return [text[a:b] for a, b in itertools.pairwise(ends) if a < b]
