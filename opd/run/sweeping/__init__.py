"""Many trainings: a sweep's points, a study's pairs."""
