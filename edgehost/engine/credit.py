"""How much work a worker may hold at once. Pure."""

from __future__ import annotations

CREDIT_MAX = 64
CREDIT_S = 1e-3
"""A worker holds about this much work: enough to keep it busy while the agent turns once, too little to wait behind."""


def credit_for(peak_s: float) -> int:
    """How many events a worker may hold whose slowest recent one took `peak_s`. The peak, not the mean: one slow event in twenty
    would else make nineteen quick ones wait behind it while other workers are idle."""
    return CREDIT_MAX if peak_s <= CREDIT_S / CREDIT_MAX else max(1, int(CREDIT_S / peak_s))
