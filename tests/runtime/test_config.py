"""Configuration files: strict, silent about secrets, readable by their role alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from runtime.config import (
    EdgeConfig,
    EnclaveConfig,
    EngineConfig,
    LogRoleConfig,
    RelayRoleConfig,
    dump_config,
    load_config,
)
from runtime.errors import Exit, SetupError

SECRET = "hunter2-of-redis"  # noqa: S105 - of no server
URL = f"unix://enclave:{SECRET}@/run/valkey.sock"
CONFIGS = [
    EdgeConfig(
        port=0,
        redis_url=URL,
        relay_urls=("http://127.0.0.1:8471", "https://b.example/r"),
        resume_s=0,
    ),
    EnclaveConfig(
        gateway="enclave-7",
        redis_url=URL,
        simulated_root=Path("/data/tee/root.pem"),
        engine=EngineConfig(kind="openai", model='a "quoted" näme', base_url="http://[::1]:1/v1"),
        debug=True,
        key_lifetime_s=60,
        evidence_interval_s=5,
    ),
    RelayRoleConfig(gateways={"enclave-0": "http://127.0.0.1:1", "enclave-1": "http://[::1]:2"}),
    LogRoleConfig(redis_url=URL, directory=Path("/data/log"), key_file=Path("/data/log.key")),
]
EDGE = 'redis_url = "redis://localhost"\nrelay_urls = ["http://localhost:8471"]\n'


def write(folder: Path, text: str) -> Path:
    """A file of this text."""
    file = folder / "role.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refused(kind: type[EdgeConfig] | type[EnclaveConfig], file: Path) -> str:
    """What a person reads where a file is refused: one line that names the file."""
    with pytest.raises(SetupError) as caught:
        load_config(kind, file)
    assert caught.value.exit_code == Exit.USAGE
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message.removesuffix("\n")
    return message


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_what_is_written_is_read(config: BaseModel, tmp_path: Path) -> None:
    """A role finds every setting as the supervisor meant it."""
    file = tmp_path / "role.toml"
    dump_config(config, file)
    assert load_config(type(config), file) == config  # type: ignore[type-var]


@given(model=st.text(min_size=1), tokens=st.integers(1, 10**9), pause=st.floats(0, 1e9))
def test_every_text_and_number_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, model: str, tokens: int, pause: float
) -> None:
    """Names with quotes, newlines or controls come back as they were."""
    file = tmp_path_factory.mktemp("config") / "role.toml"
    engine = EngineConfig(model=model, tokens=tokens, first_token_s=pause)
    config = EnclaveConfig(redis_url=URL, simulated_root=Path("/root.pem"), engine=engine)
    try:
        dump_config(config, file)
    except UnicodeEncodeError:
        return  # half of a surrogate pair is not text
    assert load_config(EnclaveConfig, file) == config


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_only_its_user_may_read_a_file(before: int | None, tmp_path: Path) -> None:
    """It holds a password, so a file that was open to all before is closed by writing it."""
    file = tmp_path / "role.toml"
    if before is not None:
        file.write_text("# from an earlier version, and longer than what follows\n" * 99)
        file.chmod(before)
    dump_config(CONFIGS[0], file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_config(EdgeConfig, file) == CONFIGS[0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (EDGE + "prot = 1\n", "prot"),
        ("port = 1\n" + EDGE + "[session]\nresume = 1\n", "session"),
        ('relay_urls = ["http://localhost"]\n', "redis_url"),
        ('redis_url = "redis://x"\nrelay_urls = []\n', "relay_urls"),
        ('redis_url = "redis://x"\nrelay_urls = ["localhost"]\n', "relay_urls.0"),
        ('redis_url = "redis://x"\nrelay_url = "http://localhost"\n', "relay_urls"),
    ],
)
def test_a_wrong_or_missing_key_is_named(text: str, named: str, tmp_path: Path) -> None:
    """A slip of the pen is not passed over as if the default had been meant."""
    assert named in refused(EdgeConfig, write(tmp_path, text))


def test_a_wrong_key_in_a_table_is_named_with_its_table(tmp_path: Path) -> None:
    """The person is led to the line."""
    text = 'redis_url = "x"\nsimulated_root = "/r"\n[engine]\nkind = "embedded"\ntokenz = 3\n'
    assert "engine.tokenz" in refused(EnclaveConfig, write(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (f'port = "{SECRET}"', "port"),
        ('port = "8470"', "port"),
        ("port = 65536", "port"),
        ("port = 1.5", "port"),
        (f'max_sockets = ["{SECRET}"]', "max_sockets"),
        (f'resume_s = "{SECRET}"', "resume_s"),
        ("resume_s = -1", "resume_s"),
        ("host = 127", "host"),
    ],
)
def test_a_wrong_type_is_named_and_its_value_is_not(line: str, named: str, tmp_path: Path) -> None:
    """Values may be passwords that ended in the wrong place; errors end in logs."""
    message = refused(EdgeConfig, write(tmp_path, f"{EDGE}{line}\n"))
    assert f" {named}: " in message
    assert SECRET not in message
    assert "8470" not in message


def test_text_is_not_taken_for_yes(tmp_path: Path) -> None:
    """Debug shows prompts: only `true` turns it on, not a text that somebody meant as no."""
    text = 'redis_url = "x"\nsimulated_root = "/r"\ndebug = "off"\n'
    assert " debug: " in refused(EnclaveConfig, write(tmp_path, text))


@pytest.mark.parametrize("name", ["../enclave", "Enclave", "", "a" * 254, "a b", "a.", ".a"])
def test_a_gateway_needs_a_name_that_a_url_can_hold(name: str, tmp_path: Path) -> None:
    """The relay puts it into paths."""
    text = f'redis_url = "x"\nsimulated_root = "/r"\ngateway = "{name}"\n'
    assert " gateway: " in refused(EnclaveConfig, write(tmp_path, text))


@pytest.mark.parametrize("content", [b"port = ", b"port = 1\nport = 2", b"\xff\xfe"])
def test_what_is_not_toml_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    """Which file, and that it is not TOML."""
    file = tmp_path / "role.toml"
    file.write_bytes(content)
    assert "TOML" in refused(EdgeConfig, file)


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    """Which file, and how to name another."""
    assert "--config" in refused(EdgeConfig, tmp_path / "none.toml")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_configuration_shows_no_password(config: BaseModel) -> None:
    """A configuration in a log or a traceback gives nothing away."""
    assert SECRET not in repr(config)
    assert SECRET not in str(config)
