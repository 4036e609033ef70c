"""The wire of other clients' code interpreters: E2B's, which Blaxel's has taken over."""
