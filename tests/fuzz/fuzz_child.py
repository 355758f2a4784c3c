"""The process that fuzzes one target: `fuzz_child.py FAMILY TARGET [libFuzzer's arguments]`.

Only the target's own family is imported, after atheris is ready to instrument it.
"""

from __future__ import annotations

import importlib
import shlex
import sys

import atheris

PACKAGES = ["transport", "proofs", "memory", "runtime", "personas"]


def main(family: str, name: str, *arguments: str) -> None:
    """Does not return."""
    with atheris.instrument_imports(include=PACKAGES, enable_loader_override=False):
        # Says where the machines of the other tests are, which some families import.
        importlib.import_module("fuzz_support")
        target = importlib.import_module(family).TARGETS[name]
    # To minimise a corpus, libFuzzer has its own name run by a shell.
    own_name = shlex.join([sys.executable, *sys.argv[:3]])
    atheris.Setup([own_name, *arguments], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
