"""The four rooms joined into jitted, sharded steps."""
