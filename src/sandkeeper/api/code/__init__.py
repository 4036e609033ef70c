"""The native wire of code contexts: `/code/…`."""
