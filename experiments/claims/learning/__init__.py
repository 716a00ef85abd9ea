"""E: learning."""

from experiments.claims.learning import e1, e5, e7, e10

CLAIMS = (e1.CLAIM, e5.CLAIM, e7.CLAIM, e10.CLAIM)
