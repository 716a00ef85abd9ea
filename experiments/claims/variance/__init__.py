"""B: variance."""

from experiments.claims.variance import b3

CLAIMS = (b3.CLAIM,)
