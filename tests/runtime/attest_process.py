"""`sotto ...` on a confidential machine that does not exist: a kernel's directory and NVIDIA's
library, the latter compiled and loaded as the real one is.

Usage: attest_process.py LIBRARY FOLDER ARGUMENT...
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from runtime.cli import main
from tests.runtime.machines import GpuMachine, TdxMachine
from tests.runtime.nvml_machine import chain_pem, sign_report
from tests.runtime.tsm_kernel import Kernel, running

_BYTES_OF = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
)


def load(path: str, machine: GpuMachine) -> list[object]:
    """Put the library where `dlopen` finds it by its name; what must stay alive."""
    # A library that is loaded already is found by its soname, wherever it lies.
    library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)

    def report(index: int, nonce: int, out: int, room: int) -> int:
        data = sign_report(machine, index, ctypes.string_at(nonce, 32))
        assert len(data) <= room
        ctypes.memmove(out, data, len(data))
        return len(data)

    def chain(index: int, _: int, out: int, room: int) -> int:
        data = chain_pem(machine, index)
        assert len(data) <= room
        ctypes.memmove(out, data, len(data))
        return len(data)

    kept = [library, _BYTES_OF(report), _BYTES_OF(chain)]
    library.set_machine(len(machine.devices), kept[1], kept[2])
    return kept


if __name__ == "__main__":
    library, folder, *arguments = sys.argv[1:]
    gpus, cpu, now = GpuMachine.create(2), TdxMachine.create(), int(time.time())
    kept = load(library, gpus)
    collateral = Path(folder) / "collateral"
    for name, items in (
        ("rims/{}.swidtag", gpus.rims()),
        ("ocsp/{}.der", gpus.responses(now)),
        ("tdx.json", [cpu.collateral(now).encode()]),
    ):
        for number, item in enumerate(items):
            (collateral / name.format(number)).parent.mkdir(parents=True, exist_ok=True)
            (collateral / name.format(number)).write_bytes(item)
    root = Path(folder) / "report"
    with running(Kernel(root, "tdx_guest", lambda data: (cpu.quote(data), b""))):
        main([*arguments, "--tsm", str(root), "--collateral", str(collateral)])
