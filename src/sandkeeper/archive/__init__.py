"""The archive of the machine: what changed, sent away, and restored elsewhere."""
