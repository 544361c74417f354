"""Who is at the other end of the unix socket, as the kernel says, and what that process may do.

Whoever may open the socket's file may read (mode 0660). Root, the daemon's own user and those of
`--socket-operators` may also operate. A process of another user namespace counts as the user that it is
outside of it, never as root because it is root inside.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.operator.who import Way, Who
from mcp_server.identity import OPERATING, READING, Identity
from probes.errors import UserError

_CREDENTIALS: Final = struct.Struct("iII")
"""`struct ucred` of unix(7): pid, uid, gid."""
_SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h, since Linux 4.13: the supplementary groups of the peer, as gid_t's."""
_MOST_GROUPS: Final = 65_536
"""NGROUPS_MAX of Linux (include/uapi/linux/limits.h)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end when it connected."""

    pid: int
    """0 for a process of another pid namespace."""
    uid: int
    gids: frozenset[int]
    """Its group and its supplementary ones."""


@dataclass(frozen=True, slots=True)
class SocketOperators:
    """Who may operate through the socket, beside root; a value."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=lambda: {0: "root"})
    """Users of whom a name is known, by number. Nobody else's is looked up: a directory service that hangs
    would stop the event loop."""

    @staticmethod
    def of(names: Sequence[str]) -> SocketOperators:
        """Those that `--socket-operators` names, and this process's own user. Raises UserError for a user or
        group that does not exist."""
        users = {_uid(name): name for name in names if not name.startswith("@")}
        gids = {_gid(name[1:]) for name in names if name.startswith("@")}
        known = {uid: name for uid, name in users.items() if not name.isdigit()}
        uids = frozenset({os.geteuid(), *users})
        return SocketOperators(uids, frozenset(gids), {0: "root", **known})

    def identity(self, peer: Peer) -> Identity:
        """What this process may do."""
        operates = peer.uid == 0 or peer.uid in self.uids or bool(peer.gids & self.gids)
        who = Who(Way.SOCKET, self.names.get(peer.uid), uid=peer.uid, pid=peer.pid)
        return Identity(who, OPERATING if operates else READING)


def peer_of(writer: asyncio.StreamWriter) -> Peer:
    """The process that made this connection on the unix socket."""
    connection: socket.socket = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    return Peer(pid, uid, frozenset({gid, *_groups_of(connection)}))


def _groups_of(connection: socket.socket) -> Iterable[int]:
    size = 64 * 4
    while size <= _MOST_GROUPS * 4:
        try:
            found = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, size)
        except OSError as error:
            if error.errno != errno.ERANGE:
                return ()  # a kernel without it: the process has its own group only
            size *= 4
        else:
            return (gid for (gid,) in struct.iter_unpack("I", found))
    return ()


def _uid(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UserError(f"--socket-operators: there is no user {name}", hint="give its number") from None


def _gid(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UserError(
            f"--socket-operators: there is no group {name}", hint="give its number: @1000"
        ) from None
