"""Process 1 of a machine that has no other init: what comes before the server, and after it."""
