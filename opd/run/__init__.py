"""The loops that people start, and what they write."""
