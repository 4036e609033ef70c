"""What Linux gives, one module a subject. No registries, no settings, no HTTP."""
