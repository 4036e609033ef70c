.PHONY: serve test check bench install screenshots dist bundle bundle-test image microvm fleet-test
serve test check install screenshots dist bundle bundle-test microvm fleet-test:
	@scripts/$@

# `make bench AGAINST=http://127.0.0.1:8080` compares with another server of the contract.
bench:
	@scripts/bench $(if $(AGAINST),--against $(AGAINST))

# `make image BASE=none` has nothing but the bundle in it, to be copied from; BASE=root.tar lies on that root.
image:
	@scripts/image $(if $(BASE),--base $(BASE))
