"""Processes: their life, their registry, their records, and what waits for them."""
