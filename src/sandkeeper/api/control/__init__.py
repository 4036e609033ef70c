"""E2B's control plane: sandboxes are made, found and ended, wherever they come from."""
