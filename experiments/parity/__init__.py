"""Our import and export of published checkpoints, measured against transformers."""
