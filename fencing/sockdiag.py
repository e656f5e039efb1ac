"""Finds and destroys the sockets that a shot left in the kernel (a dead process's TCP data is still retransmitted).

The kernel remembers with every socket the cgroup of the process that made it, also when that process and the cgroup
are gone (INET_DIAG_CGROUP_ID, Linux 5.8). So nothing has to be sampled while the delegate runs and nothing is missed.
Numbers are from linux/sock_diag.h, linux/inet_diag.h and linux/netlink.h. Needs CAP_NET_ADMIN; sees this network
namespace only.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guard.errors import Unavailable, Unreadable

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
INET_DIAG_CGROUP_ID = 21
TIME_WAIT, NEW_SYN_RECV = 6, 12  # states of half a socket: no data, and no cgroup either
FIN_WAIT2 = 5  # of a whole socket; or of half a one that its owner closed first and that awaits the other end's FIN
ALL_STATES = 0xFFFFFFFF
HEADER = struct.Struct("=IHHII")  # nlmsghdr
REQUEST = struct.Struct("=BBBBI48s")  # inet_diag_req_v2: family, protocol, extensions, pad, states, socket id
MESSAGE_BYTES = 72  # inet_diag_msg, before its attributes
REPLY_S_MAX = 2.0  # the kernel answers at once; this only bounds a bug
BUFFER_BYTES = 1 << 20
FAMILIES = (socket.AF_INET, socket.AF_INET6)
PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)


@dataclass(frozen=True, slots=True)
class Socket:
    """One kernel socket: family, protocol and the kernel's 48 bytes that name it."""

    family: int
    protocol: int
    identity: bytes


def made_in(cgroups: frozenset[int]) -> list[Socket]:
    """Every TCP and UDP socket made by a process of one of these cgroups (inode numbers of their folders).

    Raises `Unavailable` if the kernel does not say to which cgroup a socket belongs: then nobody knows what is left.
    """
    with _netlink() as link:
        return [
            found
            for family in FAMILIES
            for protocol in PROTOCOLS
            for found, cgroup in _dump(link, family, protocol)
            if cgroup in cgroups
        ]


def destroy(sockets: list[Socket]) -> tuple[int, str | None]:
    """Number of sockets destroyed or gone meanwhile, and why the kernel refused others (None: it refused none)."""
    destroyed, refused = 0, None
    with _netlink() as link:
        for target in sockets:
            number = _order(link, target)
            if number in (0, errno.ENOENT):
                destroyed += 1
            elif number == errno.EOPNOTSUPP:
                refused = "this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY is off)"
            else:
                refused = f"the kernel would not destroy a socket: {os.strerror(number)}"
    return destroyed, refused


def shortcoming() -> str | None:
    """Tried on a socket of our own: None if sockets can be found by cgroup and destroyed, else what cannot."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as mine:
        try:
            mine.bind(("127.0.0.1", 0))
            mine.listen(1)
            wanted = struct.pack("!HH", mine.getsockname()[1], 0)
            with _netlink() as link:
                ours = [s for s, _ in _dump(link, socket.AF_INET, socket.IPPROTO_TCP) if s.identity[:4] == wanted]
            return destroy(ours)[1] if ours else "the kernel does not list our own socket"
        except (OSError, Unavailable, Unreadable) as error:
            return str(error)


def _netlink() -> socket.socket:
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise Unavailable("cannot ask the kernel for its sockets", str(error)) from error
    link.settimeout(REPLY_S_MAX)
    return link


def _dump(link: socket.socket, family: int, protocol: int) -> Iterator[tuple[Socket, int]]:
    request = REQUEST.pack(family, protocol, 0, 0, ALL_STATES, bytes(48))
    yield from parsed(family, protocol, _talk(link, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, request))


def parsed(family: int, protocol: int, parts: Iterable[tuple[int, bytes]]) -> Iterator[tuple[Socket, int]]:
    """Each socket of a dump, with the number of its cgroup. Raises `Unavailable` or `Unreadable`: nobody knows then."""
    for kind, body in parts:
        if len(body) < (4 if kind == NLMSG_ERROR else MESSAGE_BYTES):
            raise Unreadable("cannot read the kernel's list of sockets", f"a message of {len(body)} bytes")
        if kind == NLMSG_ERROR:
            number = _error(body)
            if number == errno.ENOENT:  # no such protocol in this kernel, so no such sockets
                return
            raise Unavailable("cannot list sockets", os.strerror(number))
        state = body[1]
        if state in (TIME_WAIT, NEW_SYN_RECV):
            continue
        cgroup = _attribute(body[MESSAGE_BYTES:], INET_DIAG_CGROUP_ID)
        if cgroup is None and state == FIN_WAIT2:
            continue  # the whole socket would name its cgroup: all that it had to say is acknowledged
        if cgroup is None:
            raise Unavailable("cannot tell whose sockets are left", "this kernel does not say their cgroup")
        if len(cgroup) != 8:
            raise Unreadable("cannot read the kernel's list of sockets", f"a cgroup of {len(cgroup)} bytes")
        yield Socket(family, protocol, body[4:52]), int(struct.unpack("=Q", cgroup)[0])


def _order(link: socket.socket, target: Socket) -> int:
    """Destroy one socket; the kernel's error number, 0 = done."""
    request = REQUEST.pack(target.family, target.protocol, 0, 0, ALL_STATES, target.identity)
    for kind, body in _talk(link, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, request):
        if kind == NLMSG_ERROR:
            return _error(body)
    return errno.EIO


def _error(body: bytes) -> int:
    """The kernel's error number; EIO for one that it does not have (err.h: at most 4095)."""
    number = -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else errno.EIO
    return number if 0 <= number < 4096 else errno.EIO


def _talk(link: socket.socket, kind: int, flags: int, request: bytes) -> Iterator[tuple[int, bytes]]:
    """Send one request; yield each part of the reply until it is done. An error message is yielded and ends it."""
    try:
        link.send(HEADER.pack(HEADER.size + len(request), kind, flags, 0, 0) + request)
        while True:
            data = link.recv(BUFFER_BYTES)
            at = 0
            while at < len(data):
                length, reply, *_ = HEADER.unpack_from(data, at)
                if length < HEADER.size:
                    raise Unreadable("cannot read the kernel's list of sockets", f"a message of {length} bytes")
                if reply == NLMSG_DONE:
                    return
                yield reply, data[at + HEADER.size : at + length]
                if reply == NLMSG_ERROR:
                    return
                at += (length + 3) & ~3
    except (OSError, struct.error) as error:
        raise Unavailable("cannot ask the kernel for its sockets", str(error)) from error


def _attribute(data: bytes, wanted: int) -> bytes | None:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if kind == wanted:
            return data[at + 4 : at + length]
        at += max((length + 3) & ~3, 4)
    return None
