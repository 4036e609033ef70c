"""Logs, traces and metrics for a collector of OpenTelemetry; loaded where one is named."""
