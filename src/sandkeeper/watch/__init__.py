"""Watching folders: live, and what changed since a cursor."""
