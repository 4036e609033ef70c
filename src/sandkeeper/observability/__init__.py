"""Looking at the server itself: metrics, readiness, telemetry, the collector of garbage."""
