"""Files and trees: every operation on them, acting as the workload."""
