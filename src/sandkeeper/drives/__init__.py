"""Drives: mounted, listed, watched, unmounted."""
