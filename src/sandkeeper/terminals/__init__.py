"""Terminals: sessions, their screens, their journals, and those who watch them."""
