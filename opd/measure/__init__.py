"""How good it was: the exact oracle, and intervals for what is only sampled."""
