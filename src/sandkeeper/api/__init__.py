"""HTTP: parse, call a service, encode."""
