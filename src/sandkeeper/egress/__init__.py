"""The way out: the loopback proxy that adds the token, and merged certificates."""
