"""What to push: candidate weights, time-axis functions, and the table of methods."""
