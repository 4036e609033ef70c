"""Use cases: they own state and know nothing of HTTP."""
