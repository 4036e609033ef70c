"""Tickets: what opens one thing for some time in place of a token, and the links that give them."""
