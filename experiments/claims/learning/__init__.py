"""E: learning."""

from experiments.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
