"""Runs fuzz targets under atheris, each in a process of its own, and keeps what they find."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fuzz_targets import CORPUS, FAMILIES, TARGETS

_STATUS = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: \d+ corp: (\d+)/", re.MULTILINE)
_SAVED = re.compile(r"Test unit written to (.+)")
_NOISE = ("INFO:", "WARNING:", "#")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target.

    Attributes:
        target: Its name.
        runs: Inputs tried.
        coverage: Edges of code reached.
        corpus: Inputs that reach them all.
        new: Of these, those kept in the folder for new ones.
        finding: The file of an input that breaks a property, or why there is none.
        log: What was written about the finding.
    """

    target: str
    runs: int
    coverage: int
    corpus: int
    new: int
    finding: str | None
    log: str


def fuzz(
    name: str, *, seconds: int = 0, runs: int = -1, seed: int = 0, folder: Path | None = None
) -> Outcome:
    """Fuzz one target in a child process, beginning with its kept corpus.

    Args:
        name: The target.
        seconds: Time to spend; 0 is no limit.
        runs: Inputs to try; -1 is no limit.
        seed: Of the random numbers; 0 takes another each time.
        folder: Takes findings, and in a folder of the target's name new inputs, minimised. None
            keeps nothing.
    """
    with tempfile.TemporaryDirectory(prefix="sotto-fuzz-") as scratch:
        work = Path(scratch) / "work"
        work.mkdir()
        base = folder or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        if folder and (folder / name).is_dir():
            shutil.copytree(folder / name, work, dirs_exist_ok=True)
        log, code = _child(
            name,
            f"-max_total_time={seconds}",
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={TARGETS[name].max_length}",
            "-timeout=30",
            "-rss_limit_mb=2048",
            f"-artifact_prefix={base.resolve()}/{name}-",
            str(work),
            str(CORPUS / name),
        )
        status = _STATUS.findall(log)
        finding = None
        if code != 0 or not status:
            finding = (_SAVED.findall(log) or [f"no file; the process ended with {code}"])[-1]
        new = _minimise(name, work, folder) if folder and finding is None else 0
    tried, coverage, corpus = map(int, status[-1]) if status else (0, 0, 0)
    told = "\n".join(line for line in log.splitlines() if not line.startswith(_NOISE))
    return Outcome(name, tried, coverage, corpus, new, finding, told if finding else "")


def _minimise(name: str, work: Path, folder: Path) -> int:
    """Keep the inputs of `work` that reach what the kept corpus does not; how many."""
    known, found = CORPUS / name, folder / name
    merged = work.parent / "merged"
    # What the first folder holds need not be added again from the other.
    shutil.copytree(known, merged)
    _child(name, "-merge=1", str(merged), str(work))
    new = {path.name for path in merged.iterdir()} - {path.name for path in known.iterdir()}
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir()
    for one in new:
        shutil.copy(merged / one, found / one)
    return len(new)


def _child(name: str, *arguments: str) -> tuple[str, int]:
    """Run libFuzzer on a target; what it and Python wrote, and the exit code."""
    done = subprocess.run(
        [*_command(name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout, done.returncode


def _command(name: str) -> list[str]:
    child = Path(__file__).with_name("fuzz_child.py")
    return [sys.executable, str(child), FAMILIES[name], name]
