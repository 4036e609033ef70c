"""Git over HTTP: requests, answers, streams."""
