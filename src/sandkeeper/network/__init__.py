"""Ports, who listens on them, and connections to the sandbox's own servers."""
