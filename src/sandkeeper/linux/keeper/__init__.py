"""The keeper: a tiny process that holds pipes and pidfds over the death of the server."""
