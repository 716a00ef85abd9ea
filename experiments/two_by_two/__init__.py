"""On-policy or off, dense or sparse: the four corners from one start."""
