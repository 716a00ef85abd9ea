"""The claim ledger: every claim of the source with a verdict, computed from numbers by a rule."""
