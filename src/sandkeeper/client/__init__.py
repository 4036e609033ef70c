"""The command line: a client of any server of this API, for people and for scripts.

Nothing here imports the server, and the server imports nothing of this: `cli` leads to one or the
other. What a verb needs beyond the standard library is imported when it runs.

| Exit status | Meaning |
|---|---|
| 0 | done |
| 1 | the server refused, or what was asked for cannot be done |
| 2 | the command line makes no sense |
| 3 | no server of this API answers there |
| 4 | the server wants another token |
| 125, 126, 127 | `run`: it could not be started or followed; is no program; is not there |
| any other | `run`, `attach` and `wait`: the process's own; 128 and the number of its signal |
| 130, 141 | interrupted; nobody reads the output any more |
"""

__all__ = ["COMPLETE_VARIABLE"]

COMPLETE_VARIABLE = "_SANDKEEPER_COMPLETE"
"""Set by the script of `sandkeeper completion`: a shell asks what could come next."""
