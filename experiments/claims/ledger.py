"""Every claim of the source, in its order."""

from __future__ import annotations

from experiments.claims import algebra, discount, importance, instrument, learning, variance
from experiments.claims.claim import Claim

PARTS = {
    "A": algebra,
    "B": variance,
    "C": discount,
    "D": importance,
    "E": learning,
    "F": instrument,
}
CLAIMS: dict[str, Claim] = {claim.id: claim for part in PARTS.values() for claim in part.CLAIMS}
