"""What force does to a run, measured: kills, full disks, bad files, long runs."""
