"""The kept corpus of every fuzz target, and a bounded run of the fuzzer over each."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_runner import fuzz
from fuzz_support import SAMPLES
from fuzz_targets import CORPUS, TARGETS, kept, seed_name

FUZZ = Path(__file__).parent
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform"
)


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_corpus_holds(name: str) -> None:
    """Every kept input passes through its target."""
    for path in kept(name):
        TARGETS[name].run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_seeds_are_what_our_encoders_make(name: str) -> None:
    """A format that changes takes its seeds along: `python tests/fuzz --seeds` makes them anew."""
    made = {seed_name(data): data for data in TARGETS[name].seeds()}
    found = {path.name: path.read_bytes() for path in kept(name) if path.name in made}
    assert found == made
    assert {path.name for path in kept(name) if path.name.startswith("seed-")} == made.keys()


def test_the_kept_corpus_is_small_and_has_no_strays() -> None:
    """A checkout stays light, and every folder of the corpus belongs to a target."""
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) < 400
    assert sum(path.stat().st_size for path in files) < 200 * 1024
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 64 * 1024


@needs_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_finds_nothing(name: str) -> None:
    """A seeded, bounded number of inputs, chosen by the code that they reach, finds nothing."""
    outcome = fuzz(name, runs=TARGETS[name].runs, seed=1)
    assert outcome.finding is None, outcome.log
    assert outcome.runs >= TARGETS[name].runs
    assert outcome.coverage > 0


@needs_atheris
def test_new_inputs_are_kept_and_used_again(tmp_path: Path) -> None:
    """What reaches new code is kept, less what is not needed for it, and begins the next run."""
    done = _command("--runs", "2000", "--seed", "1", "--corpus", str(tmp_path), "--json", "sse")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    kept_now = [path.read_bytes() for path in (tmp_path / "sse").iterdir()]
    assert 0 < len(kept_now) == outcome["new"]
    for data in kept_now:
        TARGETS["sse"].run(data)
    again = fuzz("sse", runs=1, seed=1, folder=tmp_path)
    assert again.coverage >= outcome["coverage"]
    assert again.corpus > len(kept("sse"))


def test_unknown_targets_are_named(tmp_path: Path) -> None:
    """A misspelt target is told, with where to look."""
    done = _command("no-such-target", "--corpus", str(tmp_path))
    assert done.returncode == 2
    assert "no-such-target" in done.stderr
    assert "--list" in done.stderr


@needs_atheris
def test_a_finding_is_saved_and_fails(tmp_path: Path) -> None:
    """A target that breaks ends with code 1 and names the file that breaks it."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in FUZZ.glob("*.py"):
        (broken / path.name).write_bytes(path.read_bytes())
    source = (broken / "fuzz_bhttp.py").read_text()
    (broken / "fuzz_bhttp.py").write_text(source.replace("len(shortest) <= end", "value < 99"))
    folder = broken / "corpus" / "varint"
    folder.mkdir(parents=True)
    done = _command("--runs", "50000", "--corpus", str(tmp_path / "new"), "varint", at=broken)
    assert done.returncode == 1
    saved = Path(done.stderr.strip().rpartition("FOUND ")[2])
    assert saved.parent == tmp_path / "new"
    assert saved.is_file()


def _command(*arguments: str, at: Path = FUZZ) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(at), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
