"""Tar streams: packed without holding them, unpacked without trusting them."""
