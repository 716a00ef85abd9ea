"""C: discount."""

from experiments.claims.discount import c1, c2, c3, c4, c5, c6, c7, c8, c9, c10

CLAIMS = tuple(part.CLAIM for part in (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10))
