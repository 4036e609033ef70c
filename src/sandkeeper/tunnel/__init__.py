"""The WireGuard tunnel."""
