"""A: the algebra."""

from experiments.claims.algebra import a1

CLAIMS = (a1.CLAIM,)
