"""The scribe: the process that listens to interpreters and writes down what they say."""
