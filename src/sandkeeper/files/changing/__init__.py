"""Changing files whole: replaced, renamed, removed, with temporaries that no crash leaves."""
