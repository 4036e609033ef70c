"""Code editing for agents: fast apply and reranking, by rule or by a provider."""
