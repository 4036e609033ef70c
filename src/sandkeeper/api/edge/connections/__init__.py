"""The connections below HTTP: uvicorn's protocol, its insides, its limits and its end."""
