"""Keeping the workload's processes from the API: connections of its user are not taken.

The other end of a connection within this machine is a socket as well, and the kernel tells whose.
A firewall would need tools and rights that images lack, and rules that outlive the server.
"""

import errno

from sandkeeper.linux.addresses import is_loopback
from sandkeeper.network.sockdiag import owner

__all__ = ["Isolation"]


class Isolation:
    """Whether a connection may be the workload's."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def refuses(self, ours: tuple[str, int], theirs: tuple[str, int]) -> bool:
        """Say whether a connection is not to be taken; the ends are as this side sees them.

        What nobody holds any more is refused as well: its maker does not wait for an answer. So is
        a connection over loopback whose other end the kernel does not tell.
        """
        try:
            uid = owner(theirs[:2], ours[:2])
        except OSError as error:
            # Without such a socket here it comes from another machine or namespace.
            return is_loopback(theirs[0]) or error.errno != errno.ENOENT
        return uid is None or uid == self._uid
