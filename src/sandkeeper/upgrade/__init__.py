"""Another version in place, without anybody noticing."""
