.PHONY: serve test check bench install screenshots
serve test check install screenshots:
	@scripts/$@

# `make bench AGAINST=http://127.0.0.1:8080` compares with another server of the contract.
bench:
	@scripts/bench $(if $(AGAINST),--against $(AGAINST))
