"""The contract's routes: parse, call, encode. Each module exports handlers and `routes(handlers)`.

Handlers take the services and settings that they use; `api.areas` passes them.
"""
