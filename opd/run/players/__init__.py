"""Teacher and student: made, found, loaded, saved."""
