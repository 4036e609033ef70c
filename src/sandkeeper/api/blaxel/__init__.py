"""The contract's routes: parse, call, encode. Each module exports `routes(sandbox)`."""
