"""HTTP itself: protocol, limits, middleware, tokens, bodies, streams. Knows no route."""
