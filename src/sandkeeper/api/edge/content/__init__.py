"""What bodies hold: content codings, downloads."""
