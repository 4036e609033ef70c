"""Children of this process: starting them, as whom, noticing and reaping their end."""
