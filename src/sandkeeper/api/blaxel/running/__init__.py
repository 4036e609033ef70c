"""Processes while they run: what they use, and the stream of one that was just started."""
