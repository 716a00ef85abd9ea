"""What gets pushed: policies as pure functions of their parameters."""
