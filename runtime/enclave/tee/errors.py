"""Why evidence could not be collected."""

from __future__ import annotations

from runtime.errors import SetupError


class TeeError(SetupError):
    """Evidence cannot be collected: what is missing, why, and what the operator does about it.

    Codes: `no_tee`, `no_gpu` (there is none), `tee_permission`, `tee_busy` (may pass by itself),
    `tee_failed` (the platform answered and refused), `gpu_failed`, `gpu_not_confidential`,
    `collateral`.
    """
