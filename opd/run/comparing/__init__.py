"""The main job: estimators measured, arms trained, a report."""
