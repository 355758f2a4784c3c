"""`sotto loadtest run`: refusals before anything is sent, and whole runs on the real system."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loadtest import command
from loadtest.drivers import Load
from loadtest.records import Setup
from loadtest.reports import as_json, as_table, summarize
from loadtest.scenarios import BUILT_IN
from personas.library import load_library
from proofs.policy import Policy
from runtime.config import EngineConfig
from runtime.errors import SottoError
from runtime.up import Running, UpOptions, up
from tests.e2e.system import free_port

ROOT = Path(__file__).parents[2]
TOKENS = 12


def parse(*arguments: str) -> argparse.Namespace:
    """The command's options, as the `sotto` command parses them."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["loadtest", "run", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--clients", "0"),
        ("--clients", "1000000"),
        ("--turns", "-1"),
        ("--rate", "nan"),
        ("--think", "-0.5"),
        ("--duration", "inf"),
        ("--arrival", "sometimes"),
    ],
)
def test_refuses_numbers_without_a_limit(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every run ends: a count or time that is absurd never starts one; exit 2."""
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--arrival", "poisson"), "rate"),
        (("--arrival", "poisson", "--rate", "0"), "rate"),
        (("--rate", "3"), "rate"),
        (("--persona", "nobody-of-that-name"), "persona_unknown"),
        (("--dialogues", "/nowhere/valid.csv"), "dialogues"),
        (("--out", "/nowhere/report.json"), "out"),
        (("--edge", "ws://127.0.0.1:1/v1/realtime"), "edge_away"),
    ],
)
def test_cannot_start(
    arguments: tuple[str, ...], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong is said in one line with exit code 2, before figures mean anything."""
    for name in ("SOTTO_POLICY", "SOTTO_DATA"):
        monkeypatch.delenv(name, raising=False)
    args = parse("--home", str(tmp_path), *arguments)
    with pytest.raises(SottoError) as caught:
        args.run(args)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert "\n" not in str(caught.value)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[Running]:
    """All roles as processes, with a quick script for an engine."""
    engine = EngineConfig(kind="scripted", first_token_s=0.02, token_s=0.005, tokens=TOKENS)
    async with up(UpOptions(tmp_path / "data", free_port(), engine)) as running:
        yield running


def device_folders(pid: int) -> set[Path]:
    """Where a run's devices keep their secrets; told by /proc, so on Linux alone."""
    if sys.platform != "linux":
        return set()
    opened = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            opened.append(one.readlink())
    homes = {path.parent for path in opened if path.name == "device.db"}
    assert len(homes) == 2
    return homes


def load_on(running: Running, *, rate: float | None, clients: int, turns: int) -> Load:
    """A load on that system under its own policy."""
    personas = tuple(load_library())
    setup = Setup(
        edge=running.options.edge_url,
        clients=clients,
        turns=turns,
        arrival="closed" if rate is None else "poisson",
        rate=rate,
        duration_s=600.0,
        think_s=0.0,
        receipts_s=120.0,
        seed=1,
        personas=tuple(persona.handle for persona in personas),
        dialogues=BUILT_IN.source,
    )
    return Load(setup, Policy.load(running.options.policy_file), personas, BUILT_IN)


@pytest.mark.integration
async def test_measures_the_real_system(system: Running) -> None:
    """Eight devices, two turns each: all answered, all receipts settled, figures consistent."""
    load = load_on(system, rate=None, clients=8, turns=2)
    run = await load.run(asyncio.Event())
    report = summarize(run)
    assert (report.ok, report.errors, report.exit_code) == (16, {}, 0)
    assert report.receipts == {"settled": 16}
    assert sorted((turn.client, turn.turn) for turn in run.turns) == [
        (client, turn) for client in range(8) for turn in range(2)
    ]
    for turn in run.turns:
        assert turn.sent is not None
        assert turn.first_token is not None
        assert turn.settled is not None
        assert 0 <= turn.scheduled <= turn.sent < turn.first_token < turn.done < turn.settled
        assert turn.deltas == TOKENS == len(turn.gaps) + 1
        assert turn.first_token + sum(turn.gaps) <= turn.done
    for second in (turn for turn in run.turns if turn.turn == 1):
        first = next(one for one in run.turns if (one.client, one.turn) == (second.client, 0))
        assert second.scheduled >= first.done
    assert report.tokens_per_s == pytest.approx(16 * TOKENS / run.wall_s)
    document = json.loads(json.dumps(as_json(report, records=True), allow_nan=False))
    assert document["simulated"] is document["scripted"] is True
    assert len(document["records"]) == 16
    assert "16 of 16 ok" in as_table(report)


@pytest.mark.integration
async def test_poisson_turns_wait_for_a_client(system: Running) -> None:
    """More turns than one client can say: each is said, and counts from when it was due."""
    run = await load_on(system, rate=100.0, clients=1, turns=8).run(asyncio.Event())
    assert [turn.outcome for turn in run.turns] == ["completed"] * 8
    dues = [turn.scheduled for turn in run.turns]
    assert dues == sorted(dues)
    last = run.turns[-1]
    assert last.sent is not None
    assert last.scheduled < run.turns[0].done < last.sent
    wait = last.sent - last.scheduled
    report = summarize(run)
    assert report.send_delay.max is not None
    assert report.first_token.max is not None
    assert report.first_token.max > report.send_delay.max >= wait


@pytest.mark.integration
async def test_interrupted_it_reports_what_was_done(system: Running, tmp_path: Path) -> None:
    """Ctrl-C is a wish for the report: JSON on both outputs, exit 130, no device left behind."""
    out = tmp_path / "report.json"
    arguments: list[Any] = [
        *(sys.executable, "-m", "runtime", "loadtest", "run", "--clients", "2"),
        *("--turns", "1000", "--persona", "wren", "--json", "--out", out),
        *("--edge", system.options.edge_url, "--policy", system.options.policy_file),
    ]
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    while b" turns ended" not in (progress := await process.stderr.readline()) or (
        progress.startswith(b"0 ")
    ):
        assert progress, "it ended by itself"
    homes = device_folders(process.pid)
    process.send_signal(signal.SIGINT)
    printed, _ = await process.communicate()
    document = json.loads(printed)
    assert process.returncode == 130
    assert document == json.loads(out.read_bytes())
    assert not any(home.exists() for home in homes)
    assert document["interrupted"] is True
    assert document["turns"]["ok"] > 0
    assert document["turns"]["failed"] == 0
    assert document["turns"]["unfinished"] <= 2
