"""Mechanisms: no HTTP, no registries, no settings."""
