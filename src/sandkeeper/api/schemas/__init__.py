"""Wire structs (msgspec), shared by HTTP and MCP."""
