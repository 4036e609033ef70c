"""Paths resolved safely: for the workload, for what steers the server, for our own state."""
