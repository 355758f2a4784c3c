"""Reads a log without writing it: out of its folder, or over HTTP as c2sp.org/tlog-tiles says.

Nothing that is read is believed beyond what the checkpoint's root covers: entries and proofs are
given out only with their path to it. Who signed the checkpoint is for the caller to verify.
Blocking, and for one thread at a time.
"""

from __future__ import annotations

import http.client
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit

from proofs import merkle
from proofs.checkpoint import Checkpoint, parse_checkpoint
from proofs.errors import LogError, RefusedError, UnreadableError
from proofs.log.history import entries_between
from proofs.log.index import ids_between
from proofs.log.store import CHECKPOINT, HISTORY
from proofs.log.tree import TileTree
from proofs.note import MAX_NOTE, Note, parse_note
from proofs.tiles import WIDTH, Tile, decode_entries, encode_entries
from proofs.tlogproof import TlogProof

_MAX_BUNDLE = WIDTH * (2 + 65535)
_MAX_TILE = WIDTH * merkle.HASH_SIZE
_TIMEOUT_S = 30.0
# For a whole answer: one that comes byte by byte, or without end, never stands still.
_ANSWER_S = 120.0
_MAX_TRIES = 3


class Source(Protocol):
    """Where the files of a log come from."""

    def fetch(self, path: str, limit: int) -> bytes | None:
        """The file at `path`, None where there is none; LogError where it cannot be had.

        Of a longer file than `limit` come `limit` bytes and one more.
        """

    def close(self) -> None:
        """Let go of it."""


class Folder:
    """A log's own folder, or a mirror's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fetch(self, path: str, limit: int) -> bytes | None:
        """As `Source`."""
        try:
            with (self.directory / path).open("rb") as file:
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise LogError(
                f"{self.directory / path} cannot be read ({error.strerror}). Check permissions."
            ) from error

    def close(self) -> None:
        """As `Source`."""


class Server:
    """A log behind a URL prefix. Follows no redirect: it asks the server that was named.

    Args:
        prefix: What the log's paths are under.
        answer_s: How long one answer may take, from the request to its end.

    Raises:
        UnreadableError: Not the prefix of a log.
    """

    def __init__(self, prefix: str, answer_s: float = _ANSWER_S) -> None:
        try:
            parts = urlsplit(prefix)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if (
            parts.scheme not in ("http", "https")
            or not host
            or parts.username is not None
            or parts.query
            or parts.fragment
        ):
            raise UnreadableError("A log's URL has the form http(s)://host[:port][/path].")
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=_TIMEOUT_S)
        self._path = parts.path.rstrip("/")
        self._answer_s = answer_s
        self._fresh = True

    def fetch(self, path: str, limit: int) -> bytes | None:
        """As `Source`."""
        for left in reversed(range(_MAX_TRIES)):
            fresh, self._fresh = self._fresh, False
            watch = threading.Timer(self._answer_s, self._hang_up)
            watch.daemon = True
            watch.start()
            try:
                return self._get(path, limit)
            # UnicodeError: a host that no name can be.
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                self.close()
                # A connection that was kept may have been closed meanwhile; a new one was not.
                if fresh or not left:
                    raise LogError(
                        f"The log's server did not answer with {path} ({type(error).__name__}). "
                        "Try again later."
                    ) from error
            finally:
                watch.cancel()
        raise AssertionError

    def close(self) -> None:
        """As `Source`."""
        self._connection.close()
        self._fresh = True

    def _hang_up(self) -> None:
        """End what the other thread waits for."""
        held = self._connection.sock
        if held is not None:
            with suppress(OSError):
                # Not that of TLS, which would change what is being read from.
                socket.socket.shutdown(held, socket.SHUT_RDWR)

    def _get(self, path: str, limit: int) -> bytes | None:
        headers = {"Accept-Encoding": "gzip, identity", "User-Agent": "sottovoce"}
        self._connection.request("GET", f"{self._path}/{path}", headers=headers)
        answer = self._connection.getresponse()
        # Compressed, what has nothing to compress is a little longer.
        data = answer.read(limit + limit // 64 + 1024)
        if len(data) > limit and not answer.isclosed():
            self.close()  # what is left of the answer would be in the way of the next
        elif not answer.isclosed():
            raise http.client.IncompleteRead(b"")
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise LogError(f"The log's server answered {path} with status {answer.status}.")
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding == "gzip":
            return _unzip(data, path, limit)
        if encoding != "identity":
            raise LogError(f"The log's server answered {path} in an encoding not asked for.")
        return data[: limit + 1]


def open_source(place: str) -> Source:
    """A `Server` for a URL, else a `Folder`.

    Raises:
        UnreadableError: A malformed URL.
    """
    return Server(place) if place.startswith(("http://", "https://")) else Folder(Path(place))


class LogReader:
    """A log as of one checkpoint.

    Args:
        source: Where its files are; closed with the reader.
        checkpoint: The signed checkpoint to read as of; else what is served now.

    Raises:
        LogError: The source has none, or cannot be read.
        UnreadableError: It is no checkpoint.
    """

    def __init__(self, source: Source, checkpoint: str | None = None) -> None:
        self._source = source
        text = self._fetch_checkpoint() if checkpoint is None else checkpoint
        self.note: Note = parse_note(text)
        self.checkpoint: Checkpoint = parse_checkpoint(self.note.text)
        self._tree = TileTree(self._read_tile, self.checkpoint.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def find_tile(self, tile: Tile) -> bytes | None:
        """A tile's or bundle's bytes, unverified; None where there is none.

        A partial one may have been replaced by its full one, of which it is the beginning.

        Raises:
            LogError: The source cannot be read.
        """
        limit = _MAX_BUNDLE if tile.level is None else _MAX_TILE
        data = self._source.fetch(tile.path, limit)
        if data is None and tile.width < WIDTH:
            full = self._source.fetch(Tile(tile.level, tile.index).path, limit)
            if full is not None:
                return _beginning(full, tile)
        return data

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """Entries from `start` to `end` (excluded), each proven against the checkpoint's root.

        Raises:
            LogError: A file is missing or damaged, or there are fewer entries.
            RefusedError: An entry is not that of the tree.
        """
        for number, entry in self._numbered(start, end):
            self.proof(number, entry)
            yield entry

    def proofs(self, start: int, end: int) -> Iterator[tuple[bytes, TlogProof]]:
        """As `entries`, each with its proof."""
        for number, entry in self._numbered(start, end):
            yield entry, self.proof(number, entry)

    def proof(self, index: int, entry: bytes) -> TlogProof:
        """The proof that `entry` stands at `index`.

        Raises:
            LogError: A tile is missing or damaged, or the tree is smaller.
            RefusedError: It does not stand there.
        """
        self._check_range(index, index + 1)
        size = self.checkpoint.size
        path = tuple(merkle.inclusion_proof(index, size, self._tree.subtree))
        leaf = merkle.leaf_hash(entry)
        if not merkle.verify_inclusion(index, size, leaf, path, self.checkpoint.root):
            raise RefusedError(
                f"Entry {index} is not the one of the log's checkpoint. The files do not belong "
                "together, or were changed."
            )
        return TlogProof(index, path, self.note)

    def consistency_proof(self, size: int) -> list[bytes]:
        """The proof that the checkpoint's tree grew from one of `size` (> 0); unverified.

        Raises:
            LogError: A tile is missing or damaged, or the tree is smaller.
        """
        self._check_range(0, size)
        return merkle.consistency_proof(size, self.checkpoint.size, self._tree.subtree)

    def entries_between(self, since: int, until: int) -> range:
        """The entries that were published from `since` to `until` (excluded), unix seconds.

        From the operator's history, which nothing signs: a log's own folder alone has it.
        Receipts are of a moment before their publication.

        Raises:
            LogError: No history there.
        """
        path = self._own_folder() / HISTORY
        try:
            found = entries_between(path, since * 1000, until * 1000)
        except OSError as error:
            raise LogError(
                f"{path} cannot be read ({error.strerror}). Give the log's own folder."
            ) from error
        size = self.checkpoint.size
        return range(min(found.start, size), min(found.stop, size))

    def ids(self, start: int, end: int) -> dict[int, str]:
        """Ids under which entries were handed in, by index; where they are kept.

        Raises:
            LogError: No index there: a log's own folder alone has it.
        """
        return dict(ids_between(self._own_folder(), start, end))

    def _read_tile(self, tile: Tile) -> bytes:
        data = self.find_tile(tile)
        if data is None:
            raise LogError(f"The log has no {tile.path}, which its checkpoint covers.")
        return data

    def _own_folder(self) -> Path:
        if not isinstance(self._source, Folder):
            raise LogError("Times and ids are in the log's own folder alone. Give that, not a URL.")
        return self._source.directory

    def _fetch_checkpoint(self) -> str:
        data = self._source.fetch(CHECKPOINT, MAX_NOTE)
        if data is None:
            raise LogError("There is no log: no file 'checkpoint'. Check the folder or URL.")
        try:
            if len(data) <= MAX_NOTE:
                return data.decode()
        except UnicodeDecodeError:
            pass
        raise UnreadableError("The checkpoint is too long or no UTF-8. It is something else.")

    def _numbered(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        self._check_range(start, end)
        return enumerate(self._tree.entries(start, end), start)

    def _check_range(self, start: int, end: int) -> None:
        if not 0 <= start <= end <= self.checkpoint.size:
            raise LogError(
                f"Entries {start} to {end} were asked for, and the log has {self.checkpoint.size}."
            )


def _beginning(full: bytes, tile: Tile) -> bytes:
    """The partial tile in a full one."""
    if tile.level is None:
        try:
            return encode_entries(decode_entries(full, WIDTH)[: tile.width])
        except UnreadableError:
            return full  # which is no such tile either, and whoever reads it finds out
    return full[: tile.width * merkle.HASH_SIZE]


def _unzip(data: bytes, path: str, limit: int) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(data, limit + 1)
    except zlib.error as error:
        raise LogError(f"The log's server answered {path} with broken gzip.") from error
    if len(plain) <= limit and (not unzip.eof or unzip.unused_data):
        raise LogError(f"The log's server answered {path} with broken gzip.")
    return plain
