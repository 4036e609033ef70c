"""E2B's wire: processes and files as its clients call them (Connect and HTTP)."""
