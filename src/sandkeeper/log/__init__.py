"""The server's own log: the sink that never makes its callers wait, access and audit lines."""
