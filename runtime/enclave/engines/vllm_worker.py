"""Loaded by vLLM inside its worker process, before it loads a model.

vLLM 0.32's CPU build runs AMX instructions without asking the kernel for leave, which ends the
process by an illegal instruction where nothing else has asked before it.
"""

from __future__ import annotations

import torch

if not torch.cuda.is_available() and torch.cpu._is_amx_tile_supported():
    torch.cpu._init_amx()


class WorkerExtension:
    """Adds nothing to the worker."""
