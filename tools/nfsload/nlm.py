"""NLM version 4 (RFC 1813 appendix II) from the client's side: calls, and what servers call back."""
import collections
import socket
import struct

from .nfs import HANDLE, PORTMAPPER
from .rpc import Call
from .xdr import WORD, ProtocolError, Reader, opaque, string

NLM = 100021
TEST, LOCK, CANCEL, UNLOCK, GRANTED, LOCK_MSG, GRANTED_MSG = 1, 2, 3, 4, 5, 7, 10
GRANT, DENIED, NOLOCKS, BLOCKED, GRACE = 0, 1, 2, 3, 4
STATUS = {
    0: "GRANTED", 1: "DENIED", 2: "DENIED_NOLOCKS", 3: "BLOCKED", 4: "DENIED_GRACE_PERIOD", 5: "DEADLCK",
    6: "ROFS", 7: "STALE_FH", 8: "FBIG", 9: "FAILED"}
MOST = 1024
Holder = collections.namedtuple("Holder", "exclusive svid owner offset length")
Range = collections.namedtuple("Range", "offset length")


def status_name(status):
    return STATUS.get(status, str(status))


class Owner:
    """Who locks: a process of a host."""

    def __init__(self, host, svid, owner=None):
        self.host, self.svid = host, svid
        self.owner = f"{svid}@{host}".encode() if owner is None else owner

    def lock(self, handle, place):
        """nlm4_lock"""
        return (string(self.host) + opaque(handle) + opaque(self.owner)
                + struct.pack(">IQQ", self.svid, *place))


class LockClient:
    """The procedures, as generators for an engine; each returns its status and what it brings."""

    def __init__(self, channel):
        self.channel = channel
        self.serial = 0

    @property
    def engine(self):
        return self.channel.engine

    def call(self, procedure, arguments, label=None):
        self.serial += 1
        cookie = WORD.pack(self.serial)
        reader = yield Call(
            self.channel, NLM, 4, procedure, opaque(cookie) + arguments, label)
        if procedure > GRANTED:
            reader.end()
            return None, cookie
        if reader.opaque(MOST) != cookie:
            raise ProtocolError("an answer has another cookie than its call")
        return reader.number(), reader

    def test(self, owner, handle, place, exclusive=True):
        """The holder when it is denied."""
        status, reader = yield from self.call(
            TEST, WORD.pack(exclusive) + owner.lock(handle, place))
        holder = None
        if status == DENIED:
            exclusive, svid = reader.number(), reader.number()
            name = reader.opaque(MOST)
            holder = Holder(bool(exclusive), svid, name, reader.long(), reader.long())
        reader.end()
        return status, holder

    def lock(self, owner, handle, place, exclusive=True, block=False, label=None):
        status, reader = yield from self.call(
            LOCK, struct.pack(">II", block, exclusive) + owner.lock(handle, place)
            + struct.pack(">II", 0, 1), label)
        reader.end()
        return status

    def lock_message(self, owner, handle, place):
        """The cookie: the answer is called back."""
        _, cookie = yield from self.call(
            LOCK_MSG, struct.pack(">II", 0, 1) + owner.lock(handle, place)
            + struct.pack(">II", 0, 1))
        return cookie

    def cancel(self, owner, handle, place, exclusive=True):
        status, reader = yield from self.call(
            CANCEL, struct.pack(">II", True, exclusive) + owner.lock(handle, place))
        reader.end()
        return status

    def unlock(self, owner, handle, place):
        status, reader = yield from self.call(UNLOCK, owner.lock(handle, place))
        reader.end()
        return status


class Listener:
    """A UDP socket that answers calls. To an engine it is a channel without calls."""
    is_tcp = False

    def __init__(self, engine, address, port, answer):
        self.engine, self.answer = engine, answer
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((address, port))
        self.port = self.socket.getsockname()[1]
        self.calls = {}
        engine.watch(self)

    @property
    def events(self):
        return 1

    def service(self, _):
        while True:
            try:
                data, sender = self.socket.recvfrom(65536)
            except OSError:
                return
            try:
                reply = self.reply(data)
            except ProtocolError:
                continue
            self.socket.sendto(reply, sender)

    def reply(self, data):
        reader = Reader(data)
        xid, kind, version = reader.number(), reader.number(), reader.number()
        if kind != 0 or version != 2:
            raise ProtocolError("not a call")
        program, version, procedure = reader.number(), reader.number(), reader.number()
        for _ in range(2):
            reader.number()
            reader.opaque(400)
        results = self.answer(program, version, procedure, reader)
        # 1: the program is not here.
        return (struct.pack(">IIIIII", xid, 1, 0, 0, 0, 1 if results is None else 0)
                + (results or b""))


class Callbacks:
    """A lock manager's own side: what is granted to it, and results of messages."""

    def __init__(self, engine, address):
        self.granted = []
        self.results = {}
        self.answer = GRANT
        self.manager = Listener(engine, address, 0, self.call)
        self.portmapper = Listener(engine, address, 111, self.look)

    def look(self, program, version, procedure, reader):
        if program != PORTMAPPER or version != 2:
            return None
        if procedure != 3:
            return b""
        return WORD.pack(self.manager.port if reader.number() == NLM else 0)

    def call(self, program, version, procedure, reader):
        if program != NLM or version != 4:
            return None
        cookie = reader.opaque(MOST) if procedure else b""
        if procedure == GRANTED:
            exclusive, host = reader.number(), reader.opaque(MOST).decode()
            handle, owner = reader.opaque(HANDLE), reader.opaque(MOST)
            svid, place = reader.number(), Range(reader.long(), reader.long())
            reader.end()
            found = (host, svid, owner, handle, place, bool(exclusive))
            if found not in self.granted:
                self.granted.append(found)
            return opaque(cookie) + WORD.pack(self.answer)
        if 11 <= procedure <= 15:
            self.results[cookie] = reader.number()
        return b""

    def take(self, owner, handle, place, exclusive=True):
        """Whether a lock was granted since the last time."""
        wanted = (owner.host, owner.svid, owner.owner, handle, place, exclusive)
        if wanted in self.granted:
            self.granted.remove(wanted)
            return True
        return False
