"""The kernel's words about the sockets that a shot left, and ours to it; a pair of sockets stands in for netlink."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from fencing import sockdiag
from fencing.sockdiag import (
    ALL_STATES,
    HEADER,
    INET_DIAG_CGROUP_ID,
    MESSAGE_BYTES,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    Socket,
    destroy,
    parsed,
)
from guard.errors import Unavailable, Unreadable

ESTABLISHED, FIN_WAIT2, TIME_WAIT, NEW_SYN_RECV = 1, 5, 6, 12
TCP = socket.IPPROTO_TCP
CGROUP = 0x1_0000_002A


def attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust((4 + len(value) + 3) & ~3, b"\0")


def body(*attributes: bytes, state: int = ESTABLISHED, name: bytes = b"n" * 48) -> bytes:
    return (bytes([socket.AF_INET, state, 0, 0]) + name).ljust(MESSAGE_BYTES, b"\0") + b"".join(attributes)


def listed(*bodies: bytes, kind: int = SOCK_DIAG_BY_FAMILY) -> list[tuple[Socket, int]]:
    return list(parsed(socket.AF_INET, TCP, [(kind, b) for b in bodies]))


OF_CGROUP = attribute(INET_DIAG_CGROUP_ID, struct.pack("=Q", CGROUP))


def test_a_socket_is_told_by_its_name_and_its_cgroup() -> None:
    """The cgroup is found behind whatever else the kernel says, each part padded to four bytes."""
    found = (Socket(socket.AF_INET, TCP, b"n" * 48), CGROUP)
    inside = attribute(1, attribute(INET_DIAG_CGROUP_ID, bytes(8)))  # what stands within another part is none of ours
    several = (attribute(1, b"12345"), attribute(2, b""), attribute(3, b"1234"))
    for others in ((), (attribute(15, b"x"),), several, (inside,)):
        assert listed(body(*others, OF_CGROUP)) == [found]
    assert listed(body(OF_CGROUP), body(OF_CGROUP, name=b"m" * 48)) == [
        found,
        (Socket(socket.AF_INET, TCP, b"m" * 48), CGROUP),
    ]


@pytest.mark.parametrize("rest", [b"", b"\0\0\0", attribute(1, b"x"), b"\0\0\1\0" * 2])
def test_a_socket_without_a_cgroup_makes_the_list_worthless(rest: bytes) -> None:
    """Nobody knows then what is left; a part of no length at its end is no endless loop."""
    with pytest.raises(Unavailable, match="does not say their cgroup"):
        listed(body(OF_CGROUP), body(rest))


def test_half_a_socket_is_passed_over() -> None:
    """It has no data and names no cgroup; FIN-WAIT-2 may be a whole one, and then it does."""
    for state in (TIME_WAIT, NEW_SYN_RECV):
        assert listed(body(state=state), body(OF_CGROUP, state=state)) == []
    assert listed(body(state=FIN_WAIT2)) == []
    assert [cgroup for _, cgroup in listed(body(OF_CGROUP, state=FIN_WAIT2))] == [CGROUP]
    assert [cgroup for _, cgroup in listed(body(state=TIME_WAIT), body(OF_CGROUP))] == [CGROUP], "it goes on behind it"


def test_an_error_of_the_kernel_is_no_empty_list() -> None:
    """But for a protocol that it does not have: of that there are no sockets."""
    assert listed(struct.pack("=i", -errno.ENOENT), kind=NLMSG_ERROR) == []
    with pytest.raises(Unavailable, match=os.strerror(errno.EPERM)):
        listed(struct.pack("=i", -errno.EPERM), kind=NLMSG_ERROR)


@pytest.mark.parametrize(
    ("kind", "said", "unread"),
    [
        pytest.param(SOCK_DIAG_BY_FAMILY, body()[:-1], "a message of 71 bytes", id="half a socket"),
        pytest.param(NLMSG_ERROR, b"\0\0\0", "a message of 3 bytes", id="half an error"),
        pytest.param(
            SOCK_DIAG_BY_FAMILY, body(attribute(INET_DIAG_CGROUP_ID, b"")), "a cgroup of 0 bytes", id="an empty cgroup"
        ),
        pytest.param(
            SOCK_DIAG_BY_FAMILY,
            body(attribute(INET_DIAG_CGROUP_ID, b"1234")),
            "a cgroup of 4 bytes",
            id="half a cgroup",
        ),
    ],
)
def test_what_is_cut_short_is_not_believed(kind: int, said: bytes, unread: str) -> None:
    """A parser has no believable defaults."""
    with pytest.raises(Unreadable, match=unread):
        listed(said, kind=kind)


# ------------------------------------------------------------------ the conversation


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and the kernel's; neither waits long."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        for end in (ours, kernel):
            end.settimeout(0.2)
        yield ours, kernel


def reply(kind: int, what: bytes = b"", length: int | None = None) -> bytes:
    message = HEADER.pack(HEADER.size + len(what) if length is None else length, kind, 0, 0, 0) + what
    return message.ljust((len(message) + 3) & ~3, b"\0")


def talk(ends: tuple[socket.socket, socket.socket], *datagrams: bytes) -> list[tuple[int, bytes]]:
    for datagram in datagrams:
        ends[1].send(datagram)
    return list(sockdiag._talk(ends[0], SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, b"what"))


def test_a_reply_is_read_to_its_end_over_several_datagrams(ends) -> None:
    """Several messages share one datagram, each padded; what comes after the end belongs to another question."""
    said = talk(
        ends, reply(20, b"12345") + reply(20, b"6"), reply(20, b"7") + reply(NLMSG_DONE, b"\0" * 4) + reply(20, b"8")
    )
    assert said == [(20, b"12345"), (20, b"6"), (20, b"7")]
    assert (
        ends[1].recv(100)
        == HEADER.pack(HEADER.size + 4, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + b"what"
    )


def test_an_error_is_said_and_ends_the_reply(ends) -> None:
    """The kernel says nothing after it."""
    assert talk(ends, reply(20, b"1234") + reply(NLMSG_ERROR, b"abcd") + reply(20, b"5678")) == [
        (20, b"1234"),
        (NLMSG_ERROR, b"abcd"),
    ]


def test_a_kernel_that_goes_on_without_an_end_is_not_waited_for(ends) -> None:
    """What was heard by then is not taken for the whole list."""
    with pytest.raises(Unavailable, match=r"cannot ask the kernel.*timed out"):
        talk(ends, reply(20, b"1234"))


@pytest.mark.parametrize(
    ("datagram", "error"),
    [(reply(20, length=15), Unreadable), (reply(20, length=0), Unreadable), (b"12345", Unavailable)],
)
def test_a_message_shorter_than_its_own_head_is_not_believed(ends, datagram: bytes, error: type[Exception]) -> None:
    """It would be read again and again, or as something else."""
    with pytest.raises(error):
        talk(ends, datagram)


def test_a_message_that_is_nothing_but_its_head_is_read(ends) -> None:
    """A list of no sockets ends at once."""
    assert talk(ends, reply(20) + reply(NLMSG_DONE)) == [(20, b"")]


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ([reply(NLMSG_ERROR, struct.pack("=i", 0))], 0),
        ([reply(NLMSG_ERROR, struct.pack("=i", -errno.ENOENT))], errno.ENOENT),
        ([reply(NLMSG_ERROR, struct.pack("=i", -4095))], 4095),
        ([reply(NLMSG_ERROR, struct.pack("=i", -4096))], errno.EIO),
        ([reply(NLMSG_ERROR, struct.pack("=i", 1))], errno.EIO),
        ([reply(NLMSG_ERROR, b"\0\0\0")], errno.EIO),
        ([reply(20, b"1234") + reply(NLMSG_ERROR, struct.pack("=i", -errno.EPERM))], errno.EPERM),
        ([reply(NLMSG_DONE)], errno.EIO),
    ],
)
def test_an_order_is_done_only_if_the_kernel_says_so(ends, said: list[bytes], number: int) -> None:
    """S4: a socket that was not destroyed may still send. An answer that is none is an error."""
    target = Socket(socket.AF_INET6, TCP, b"i" * 48)
    for datagram in said:
        ends[1].send(datagram)
    assert sockdiag._order(ends[0], target) == number
    asked = ends[1].recv(1000)
    request = REQUEST.pack(socket.AF_INET6, TCP, 0, 0, ALL_STATES, b"i" * 48)
    assert asked == HEADER.pack(HEADER.size + len(request), SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + request


# ------------------------------------------------------------------ this machine's kernel


def own(listener: socket.socket) -> list[Socket]:
    """This very socket, as the kernel lists it."""
    port = struct.pack("!HH", listener.getsockname()[1], 0)
    with sockdiag._netlink() as link:
        return [s for s, _ in sockdiag._dump(link, socket.AF_INET, TCP) if s.identity[:4] == port]


@pytest.mark.root
def test_a_socket_is_found_in_its_makers_cgroup_and_destroyed() -> None:
    """S4: and one that is gone by itself meanwhile counts as destroyed, for nothing of it is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        [found] = own(listener)
        with sockdiag._netlink() as link:
            [cgroup] = [c for s, c in sockdiag._dump(link, socket.AF_INET, TCP) if s == found]
        assert found in sockdiag.made_in(frozenset({cgroup}))
        assert found not in sockdiag.made_in(frozenset({cgroup + 1}))
        assert destroy([found, found]) == (2, None)
        assert own(listener) == []


@pytest.mark.root
def test_what_the_kernel_refuses_is_said_and_not_counted() -> None:
    """A shot then does not end clean."""
    unknown = Socket(255, TCP, bytes(48))
    destroyed, why = destroy([unknown])
    assert destroyed == 0
    assert why is not None
    assert why.startswith("the kernel would not destroy a socket: ")


@pytest.mark.root
def test_both_families_and_both_protocols_are_searched() -> None:
    """A device may be asked by name, and SNMP by datagrams."""
    with sockdiag._netlink() as link:
        everything = {
            c
            for family in (socket.AF_INET, socket.AF_INET6)
            for protocol in (TCP, socket.IPPROTO_UDP)
            for _, c in sockdiag._dump(link, family, protocol)
        }
    with (
        socket.create_server(("127.0.0.1", 0)),
        socket.create_server(("::1", 0), family=socket.AF_INET6),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        four.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        with sockdiag._netlink() as link:
            now = {c for _, c in sockdiag._dump(link, socket.AF_INET, TCP)}
        found = {(s.family, s.protocol) for s in sockdiag.made_in(frozenset(now | everything))}
    assert found >= {(f, p) for f in (socket.AF_INET, socket.AF_INET6) for p in (TCP, socket.IPPROTO_UDP)}


@pytest.mark.root
def test_this_kernel_can_find_and_destroy() -> None:
    """The self-test of socket hunting passes where the tests above do."""
    assert sockdiag.shortcoming() is None
