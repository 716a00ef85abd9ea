"""Whose rollouts an update is taken on, and who grades them."""
