"""Speed and memory against peers, in one run, with the machine's own limits beside them."""
