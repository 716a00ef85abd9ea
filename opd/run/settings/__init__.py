"""One config, and the command line that ends in it."""
