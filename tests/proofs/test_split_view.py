"""A split view: a log shows two people different trees, each signed with its true key.

Nothing in either tree's checkpoint gives that away. What does is that witnesses cosign one of
them only, so that whoever asks for N of M witnesses cannot be shown the other.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from proofs_support import LOG
from witness_support import Running, Tree, merged, running

from proofs import merkle
from proofs.checkpoint import verify_checkpoint
from proofs.cosignature import verify_cosignatures
from proofs.merkle import verify_consistency
from proofs.note import Note, VerifierKey

pytestmark = pytest.mark.integration

# Both have the same first five entries; then the log tells each something else.
ALICES, BOBS = Tree("alice", shared=5), Tree("bob", shared=5)


class Log:
    """A log that lies: it asks witnesses for whatever tree it wants to show, and merges."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._sizes: dict[str, int] = {}

    async def show(self, tree: Tree, size: int, witnesses: Sequence[Running]) -> Note:
        """The head of `tree` with every cosignature that these witnesses give for it."""
        note = tree.head(size)
        for one in witnesses:
            for old in (self._sizes.get(one.url, 0), size):
                body = tree.request(old, size, tree.head(size))
                async with self._session.post(f"{one.url}/add-checkpoint", data=body) as answer:
                    if answer.status == 200:
                        note = merged(note, await answer.text())
                        self._sizes[one.url] = size
                        break
        return note


def believes(note: Note, keys: Sequence[VerifierKey], quorum: int) -> bool:
    """What a device does with a checkpoint: the log's signature, then N of M witnesses."""
    verify_checkpoint(note, [LOG.verifier])
    return len(verify_cosignatures(note, keys)) >= quorum


@pytest.mark.parametrize("which", [0, 1], ids=["ed25519", "ml-dsa-44"])
@pytest.mark.parametrize("size", [6, 7], ids=["of one size", "of another size"])
async def test_one_witness_is_enough_to_see_it(tmp_path: Path, size: int, which: int) -> None:
    """Both trees are signed by the log and whole in themselves; the witness cosigns one."""
    async with running(tmp_path) as one, aiohttp.ClientSession() as session:
        keys = [one.keys[which]]
        log = Log(session)
        assert believes(await log.show(Tree(shared=5), 5, [one]), keys, 1)
        alices = await log.show(ALICES, 6, [one])
        bobs = await log.show(BOBS, size, [one])
        # The log's signature alone holds on both sides; both grew from what was there before.
        assert believes(alices, keys, 0)
        assert believes(bobs, keys, 0)
        for tree, head in ((ALICES, 6), (BOBS, size)):
            new = verify_checkpoint(tree.head(head), [LOG.verifier]).root
            old = merkle.root(tree.leaves(5))
            assert verify_consistency(5, head, old, new, tree.proof(5, head))
        assert believes(alices, keys, 1)
        assert not believes(bobs, keys, 1)
        # It goes on growing for Alice, and never again for Bob.
        assert believes(await log.show(ALICES, 9, [one]), keys, 1)
        assert not believes(await log.show(BOBS, 12, [one]), keys, 1)


async def test_two_of_three_hold_against_a_log_that_picks_its_witnesses(tmp_path: Path) -> None:
    """Of two trees at most one has a majority, whomever the log asks for which."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        witnesses = [
            await stack.enter_async_context(running(tmp_path / f"w{n}", f"w.example/{n}"))
            for n in range(3)
        ]
        keys = [one.keys[0] for one in witnesses]
        log = Log(session)
        alices = await log.show(ALICES, 7, witnesses[:2])
        bobs = await log.show(BOBS, 7, witnesses[2:])
        assert believes(alices, keys, 2)
        assert not believes(bobs, keys, 2)
        # Asking those that know better, later, does not help it.
        bobs = await log.show(BOBS, 8, witnesses)
        assert len(verify_cosignatures(bobs, keys)) == 1
        assert not believes(bobs, keys, 2)
        # With one of three it would get through: a quorum has to be more than half.
        assert believes(bobs, keys, 1)
        # Nor do both keys of one witness make two witnesses, where each is pinned by one key.
        assert len(verify_cosignatures(bobs, [*keys, *keys])) == 1


async def test_a_witness_that_lies_needs_accomplices(tmp_path: Path) -> None:
    """M=3, N=2, one witness away and one that cosigns anything: Bob's tree still lacks one."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        honest, away, liar = [
            await stack.enter_async_context(running(tmp_path / f"w{n}", f"w.example/{n}"))
            for n in range(3)
        ]
        keys = [one.keys[0] for one in (honest, away, liar)]
        log = Log(session)
        alices = await log.show(ALICES, 7, [honest, liar])
        assert believes(alices, keys, 2)
        # The liar has forgotten what it cosigned: a second one with the same keys.
        folder = tmp_path / "again"
        folder.mkdir()
        for name in ("ed25519.pem", "ml-dsa-44.pem"):
            (folder / name).write_bytes((tmp_path / "w2" / name).read_bytes())
            (folder / name).chmod(0o600)
        again = await stack.enter_async_context(running(folder, "w.example/2"))
        bobs = await log.show(BOBS, 7, [honest, again])
        assert len(verify_cosignatures(bobs, keys)) == 1
        assert not believes(bobs, keys, 2)
        # Its two cosignatures for one size are proof against it, as the log's two heads are.
        for note in (alices, bobs):
            assert keys[2] in [found.key for found in verify_cosignatures(note, keys)]
            verify_checkpoint(note, [LOG.verifier])
        assert alices.text != bobs.text
