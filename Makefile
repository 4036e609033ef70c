.PHONY: serve test check bench install
serve test check bench install:
	@scripts/$@
