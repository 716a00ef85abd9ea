"""A: the algebra."""

from experiments.claims.algebra import a1, a2, a3, a4, a5, a6

CLAIMS = (a1.CLAIM, a2.CLAIM, a3.CLAIM, a4.CLAIM, a5.CLAIM, a6.CLAIM)
