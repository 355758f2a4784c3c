"""The Merkle tree against the vectors of transparency-dev/merkle, and against itself."""

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proofs_support import repository

from proofs import merkle

VECTORS = Path(os.environ.get("SOTTO_VECTORS") or repository().parent / "shared" / "vectors")


def vectors(kind: str) -> list[object]:
    files = sorted((VECTORS / "merkle" / kind).rglob("*.json"))
    if not files:
        skip = pytest.mark.skip(reason=f"no vectors in {VECTORS / 'merkle' / kind}")
        return [pytest.param(None, marks=skip, id="vectors-absent")]
    return [
        pytest.param(json.loads(f.read_text()), id=str(f.relative_to(VECTORS / "merkle" / kind)))
        for f in files
    ]


def raw(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@pytest.mark.parametrize("vector", vectors("inclusion"))
def test_inclusion_vector(vector: dict[str, object]) -> None:
    """Every published inclusion proof is judged as its authors judge it."""
    path = [raw(p) for p in vector["proof"] or []]
    holds = merkle.verify_inclusion(
        vector["leafIdx"], vector["treeSize"], raw(vector["leafHash"]), path, raw(vector["root"])
    )
    assert holds is not vector["wantErr"]


@pytest.mark.parametrize("vector", vectors("consistency"))
def test_consistency_vector(vector: dict[str, object]) -> None:
    """Every published consistency proof is judged as its authors judge it."""
    path = [raw(p) for p in vector["proof"] or []]
    holds = merkle.verify_consistency(
        vector["size1"], vector["size2"], raw(vector["root1"]), raw(vector["root2"]), path
    )
    assert holds is not vector["wantErr"]


LEAVES = [merkle.leaf_hash(i.to_bytes(2, "big")) for i in range(70)]


def test_known_roots() -> None:
    """The empty tree and a tree of the empty entry have the roots that RFC 6962 implies."""
    assert merkle.root([]).hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert merkle.root([merkle.leaf_hash(b"")]).hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )


@given(st.data())
def test_proofs_hold_for_their_entry_alone(data: st.DataObject) -> None:
    """A made proof holds, and no other index, size, leaf, cut or longer path passes for it."""
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    tree, root = merkle.subtree_of(LEAVES), merkle.root(LEAVES[:size])
    path = merkle.inclusion_proof(index, size, tree)
    assert merkle.verify_inclusion(index, size, LEAVES[index], path, root)
    other = data.draw(st.integers(0, 69).filter(lambda i: i != index))
    assert not merkle.verify_inclusion(other, size, LEAVES[index], path, root)
    assert not merkle.verify_inclusion(index, size, LEAVES[other], path, root)
    assert not merkle.verify_inclusion(index, size, LEAVES[index], [*path, root], root)
    assert not merkle.verify_inclusion(index, size, LEAVES[index], [root, *path], root)
    for end in range(len(path)):
        assert not merkle.verify_inclusion(index, size, LEAVES[index], path[:end], root)


@given(st.data())
def test_consistency_holds_for_its_trees_alone(data: st.DataObject) -> None:
    """A made consistency proof holds, and none passes for a rewritten past."""
    second = data.draw(st.integers(1, 70))
    first = data.draw(st.integers(1, second))
    tree = merkle.subtree_of(LEAVES)
    path = merkle.consistency_proof(first, second, tree)
    old, new = merkle.root(LEAVES[:first]), merkle.root(LEAVES[:second])
    assert merkle.verify_consistency(first, second, old, new, path)
    rewritten = [merkle.leaf_hash(b"rewritten"), *LEAVES[1:first]]
    assert not merkle.verify_consistency(first, second, merkle.root(rewritten), new, path)
    assert not merkle.verify_consistency(first, second, old, new, [*path, new])
    for end in range(len(path)):
        assert not merkle.verify_consistency(first, second, old, new, path[:end])


def test_entries_outside_of_the_tree_have_no_proof() -> None:
    """Asking for what is not there is an error, not a proof of something else."""
    tree = merkle.subtree_of(LEAVES)
    for index, size in ((5, 5), (-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="No entry"):
            merkle.inclusion_proof(index, size, tree)
    for first, second in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="No consistency"):
            merkle.consistency_proof(first, second, tree)
