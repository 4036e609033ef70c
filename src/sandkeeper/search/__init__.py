"""Finding files by name, by content, by relevance."""
