"""Are the choices within a goal right, and from how many prompt groups on?"""
