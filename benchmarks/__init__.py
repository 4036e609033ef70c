"""Measurements with their method; never gates."""
