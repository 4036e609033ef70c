"""Processes while they run: what they use."""
