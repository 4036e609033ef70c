"""The services as tools of the Model Context Protocol. The SDK is imported at the first request."""
