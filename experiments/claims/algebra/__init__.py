"""A: the algebra."""

from experiments.claims.algebra import a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13

PARTS = (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13)
CLAIMS = tuple(part.CLAIM for part in PARTS)
