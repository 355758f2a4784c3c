"""Text to token ids and back, for the toy model.

The model knows four role tokens. Their ids follow the tokenizer's own, so that no message,
whatever it says, can be encoded to one: a user cannot speak as the persona.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from runtime.enclave.engines.base import Message


def _byte_of_symbol() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character; this is the way back.

    Printable bytes stand for themselves, the others are numbered from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}


class ToyText:
    """Lays out prompts and turns ids into bytes.

    Attributes:
        role_start: First id that is a role token; every id from it on ends a reply.
        end: Id of the token that closes a conversation.
    """

    def __init__(self, folder: Path, role_tokens: Sequence[str]) -> None:
        """Reads tokenizer.json; raises OSError, ValueError or the tokenizer library's error."""
        source = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(source)
        symbols = _byte_of_symbol()
        tokens: dict[str, int] = json.loads(source)["model"]["vocab"]
        by_id = sorted(tokens, key=tokens.__getitem__)
        self._bytes = [bytes(symbols[symbol] for symbol in token) for token in by_id]
        self._longest = max(map(len, self._bytes))
        self.role_start = len(self._bytes)
        self._persona, self._user, self._reply, self.end = (
            self.role_start + i for i in range(len(role_tokens))
        )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt: facts, then turns, then the token that opens a reply.

        The model has one place for facts, so all system messages go there, wherever they
        stand. Neighbours of one role are joined: the model never saw a side speak twice.
        """
        segments: list[tuple[int, str]] = []
        facts = []
        for message in messages:
            text = " ".join(message.content.split())
            if message.role == "system":
                facts.append(text)
                continue
            role = self._user if message.role == "user" else self._reply
            if segments and segments[-1][0] == role:
                segments[-1] = (role, f"{segments[-1][1]} {text}")
            else:
                segments.append((role, text))
        ids: list[int] = []
        for role, text in [(self._persona, " ".join(facts)), *segments]:
            ids.append(role)
            if text.strip():
                ids += self._tokenizer.encode(" " + text).ids
        return [*ids, self._reply]

    def fewest_tokens(self, messages: Sequence[Message]) -> int:
        """A lower bound of the prompt's length that costs no tokenization."""
        visible = sum(len("".join(message.content.split())) for message in messages)
        return visible // self._longest

    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 bytes that a text token stands for; maybe part of a character."""
        return self._bytes[token]


class ReplyDecoder:
    """Bytes of tokens to whole characters, with stop texts taken out.

    Text that may be the beginning of a stop text is held back until it is clear.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self._first = True
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """New text that is safe to show. Sets `stopped` when a stop text is complete."""
        text = self._decoder.decode(piece)
        if self._first and text:
            # Every text was learned with a space before it.
            text = text.removeprefix(" ")
            self._first = False
        self._held += text
        ends = [at for at in map(self._held.find, self._stop) if at >= 0]
        if ends:
            self.stopped = True
            shown, self._held = self._held[: min(ends)], ""
            return shown
        keep = self._may_begin_stop()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back; bytes of an unfinished character are dropped."""
        shown, self._held = self._held, ""
        return shown

    def _may_begin_stop(self) -> int:
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
