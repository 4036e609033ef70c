"""One module per area of the API; each exports `routes(sandbox)`."""
