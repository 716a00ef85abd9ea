"""F: the instrument itself."""

from experiments.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
