"""D: importance and reuse."""

from experiments.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
