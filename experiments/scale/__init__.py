"""What a step asks of the chips it would run on, before any of them is paid for."""
