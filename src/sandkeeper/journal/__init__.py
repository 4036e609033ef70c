"""The heart: from the pipe to segments and cursors, and what readers make of them."""
