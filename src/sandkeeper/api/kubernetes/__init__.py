"""The wires of `k8s-agent-sandbox`: sandboxd (REST and gRPC), and the older python-runtime."""
