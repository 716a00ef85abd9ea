"""Do the probe's 95 % intervals cover, and from how many prompt groups on?"""
