"""The trainer: what an update is, and the loop."""
