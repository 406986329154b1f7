"""NFS version 3, MOUNT version 3 (RFC 1813) and portmapper version 2 (RFC 1833) from the client's side."""
import collections
import struct

from .rpc import Call, CallFailed, Channel, Sleep
from .xdr import ProtocolError, opaque, string

PORTMAPPER, NFS, MOUNT = 100000, 100003, 100005
OK, PERM, NOENT, EXIST, XDEV, NOTDIR, ISDIR, NOTEMPTY = 0, 1, 2, 17, 18, 20, 21, 66
STALE, JUKEBOX = 70, 10008
STATUS = {
    0: "OK", 1: "PERM", 2: "NOENT", 5: "IO", 6: "NXIO", 13: "ACCES", 17: "EXIST", 18: "XDEV", 19: "NODEV",
    20: "NOTDIR", 21: "ISDIR", 22: "INVAL", 27: "FBIG", 28: "NOSPC", 30: "ROFS", 31: "MLINK",
    63: "NAMETOOLONG", 66: "NOTEMPTY", 69: "DQUOT", 70: "STALE", 71: "REMOTE", 10001: "BADHANDLE",
    10002: "NOT_SYNC", 10003: "BAD_COOKIE", 10004: "NOTSUPP", 10005: "TOOSMALL", 10006: "SERVERFAULT",
    10007: "BADTYPE", 10008: "JUKEBOX",
}
REGULAR, DIRECTORY, BLOCK, CHARACTER, LINK, SOCKET, FIFO = 1, 2, 3, 4, 5, 6, 7
UNSTABLE, DATA_SYNC, FILE_SYNC = 0, 1, 2
UNCHECKED, GUARDED, EXCLUSIVE = 0, 1, 2
HANDLE = 64
FATTR = struct.Struct(">IIIIIQQIIQQIIIIII")
WCC = struct.Struct(">QIIII")
Attributes = collections.namedtuple(
    "Attributes", "type mode nlink uid gid size used rdev1 rdev2 fsid fileid "
    "atime atime_ns mtime mtime_ns ctime ctime_ns")
Entry = collections.namedtuple("Entry", "fileid name cookie attributes handle")
WriteResult = collections.namedtuple("WriteResult", "count committed verifier attributes")
ReadResult = collections.namedtuple("ReadResult", "data is_end attributes")


def status_name(status):
    return STATUS.get(status, str(status))


class NFSError(Exception):
    """A status that the caller has not asked for."""

    def __init__(self, operation, status):
        super().__init__(f"{operation}: {status_name(status)}")
        self.status = status


def settable(mode=None, size=None):
    """sattr3; times stay."""
    word = struct.Struct(">I").pack
    return ((word(1) + word(mode) if mode is not None else word(0)) + word(0) + word(0)
            + (word(1) + struct.pack(">Q", size) if size is not None else word(0)) + word(0) + word(0))


def attributes_of(reader):
    """post_op_attr"""
    return Attributes(*reader.unpack(FATTR)) if reader.number() else None


def weak_cache(reader):
    """wcc_data; what it was before is checked for its form only."""
    if reader.number():
        reader.take(24)
    return attributes_of(reader)


class Client:
    """The procedures, as generators for an engine; each returns its status and what it brings."""

    def __init__(self, channel, jukebox_wait=0.1):
        self.channel, self.jukebox_wait = channel, jukebox_wait

    @property
    def engine(self):
        return self.channel.engine

    def call(self, procedure, arguments, label=None):
        """A status of JUKEBOX means that nothing was done: the call is made again, as a new one."""
        while True:
            reader = yield Call(self.channel, NFS, 3, procedure, arguments, label)
            status = reader.number()
            if status != JUKEBOX:
                return status, reader
            self.engine.counts["jukebox"] += 1
            yield Sleep(self.jukebox_wait)

    def null(self):
        reader = yield Call(self.channel, NFS, 3, 0, b"")
        reader.end()

    def getattr(self, handle):
        status, reader = yield from self.call(1, opaque(handle))
        value = Attributes(*reader.unpack(FATTR)) if status == OK else None
        reader.end()
        return status, value

    def setattr(self, handle, mode=None, size=None):
        status, reader = yield from self.call(2, opaque(handle) + settable(mode, size) + bytes(4))
        value = weak_cache(reader)
        reader.end()
        return status, value

    def lookup(self, directory, name):
        """Handle and attributes."""
        status, reader = yield from self.call(3, opaque(directory) + string(name))
        value = None
        if status == OK:
            handle = reader.opaque(HANDLE)
            value = handle, attributes_of(reader)
        attributes_of(reader)
        reader.end()
        return status, value

    def access(self, handle, wanted=0x3F):
        status, reader = yield from self.call(4, opaque(handle) + struct.pack(">I", wanted))
        attributes_of(reader)
        value = reader.number() if status == OK else None
        reader.end()
        return status, value

    def readlink(self, handle):
        status, reader = yield from self.call(5, opaque(handle))
        attributes_of(reader)
        value = reader.opaque().decode() if status == OK else None
        reader.end()
        return status, value

    def read(self, handle, offset, count, label=None):
        status, reader = yield from self.call(
            6, opaque(handle) + struct.pack(">QI", offset, count), label)
        attributes = attributes_of(reader)
        value = None
        if status == OK:
            said, is_end = reader.number(), reader.number()
            data = reader.opaque(count)
            if said != len(data):
                raise ProtocolError(f"READ says {said} octets and brings {len(data)}")
            value = ReadResult(data, bool(is_end), attributes)
        reader.end()
        return status, value

    def write(self, handle, offset, data, stable=UNSTABLE, label=None):
        status, reader = yield from self.call(
            7, opaque(handle) + struct.pack(">QII", offset, len(data), stable) + opaque(data), label)
        attributes = weak_cache(reader)
        value = None
        if status == OK:
            count, committed = reader.number(), reader.number()
            value = WriteResult(count, committed, bytes(reader.take(8)), attributes)
            if count > len(data) or committed < stable:
                raise ProtocolError(f"WRITE of {len(data)}, stable {stable}: {count}, {committed}")
        reader.end()
        return status, value

    def made(self, procedure, arguments):
        """Handle and attributes of what was made."""
        status, reader = yield from self.call(procedure, arguments)
        value = None
        if status == OK:
            handle = reader.opaque(HANDLE) if reader.number() else None
            value = handle, attributes_of(reader)
        weak_cache(reader)
        reader.end()
        return status, value

    def create(self, directory, name, how=GUARDED, verifier=None, mode=0o666, size=None):
        what = struct.pack(">I", how) + (verifier if how == EXCLUSIVE else settable(mode, size))
        return (yield from self.made(8, opaque(directory) + string(name) + what))

    def mkdir(self, directory, name, mode=0o777):
        return (yield from self.made(9, opaque(directory) + string(name) + settable(mode)))

    def symlink(self, directory, name, target):
        return (yield from self.made(
            10, opaque(directory) + string(name) + settable(0o777) + string(target)))

    def mkfifo(self, directory, name):
        return (yield from self.made(
            11, opaque(directory) + string(name) + struct.pack(">I", FIFO) + settable(0o666)))

    def removal(self, procedure, directory, name):
        status, reader = yield from self.call(procedure, opaque(directory) + string(name))
        weak_cache(reader)
        reader.end()
        return status, None

    def remove(self, directory, name):
        return (yield from self.removal(12, directory, name))

    def rmdir(self, directory, name):
        return (yield from self.removal(13, directory, name))

    def rename(self, source, name, target, new):
        status, reader = yield from self.call(
            14, opaque(source) + string(name) + opaque(target) + string(new))
        weak_cache(reader)
        weak_cache(reader)
        reader.end()
        return status, None

    def link(self, handle, directory, name):
        """Attributes of the file."""
        status, reader = yield from self.call(15, opaque(handle) + opaque(directory) + string(name))
        value = attributes_of(reader)
        weak_cache(reader)
        reader.end()
        return status, value

    def readdir(self, directory, cookie=0, verifier=bytes(8), count=8192, plus=False):
        """Entries, whether they are the last, and the verifier for the next call."""
        arguments = opaque(directory) + struct.pack(">Q", cookie) + verifier
        if plus:
            arguments += struct.pack(">I", max(512, count // 8))
        status, reader = yield from self.call(17 if plus else 16, arguments + struct.pack(">I", count))
        attributes_of(reader)
        if status != OK:
            reader.end()
            return status, None
        verifier = bytes(reader.take(8))
        entries = []
        while reader.number():
            fileid = reader.long()
            name = reader.opaque(255).decode()
            cookie = reader.long()
            attributes = attributes_of(reader) if plus else None
            handle = reader.opaque(HANDLE) if plus and reader.number() else None
            entries.append(Entry(fileid, name, cookie, attributes, handle))
        is_end = bool(reader.number())
        reader.end()
        return status, (entries, is_end, verifier)

    def listing(self, directory, count=8192, plus=False):
        """All entries of a directory but `.` and `..`, by name."""
        found, cookie, verifier = {}, 0, bytes(8)
        while True:
            status, part = yield from self.readdir(directory, cookie, verifier, count, plus)
            if status != OK:
                raise NFSError("READDIRPLUS" if plus else "READDIR", status)
            entries, is_end, verifier = part
            for entry in entries:
                if entry.name in found:
                    raise ProtocolError(f"{entry.name} is listed twice")
                if entry.name not in (".", ".."):
                    found[entry.name] = entry
            if is_end:
                return found
            if not entries:
                raise ProtocolError("a listing that is not at its end brings no entry")
            cookie = entries[-1].cookie

    def fsstat(self, handle):
        status, reader = yield from self.call(18, opaque(handle))
        attributes_of(reader)
        value = reader.unpack(struct.Struct(">QQQQQQI")) if status == OK else None
        reader.end()
        return status, value

    def fsinfo(self, handle):
        """rtmax rtpref rtmult wtmax wtpref wtmult dtpref, then maxfilesize, time delta and properties."""
        status, reader = yield from self.call(19, opaque(handle))
        attributes_of(reader)
        value = reader.unpack(struct.Struct(">7IQIII")) if status == OK else None
        reader.end()
        return status, value

    def pathconf(self, handle):
        status, reader = yield from self.call(20, opaque(handle))
        attributes_of(reader)
        value = reader.unpack(struct.Struct(">6I")) if status == OK else None
        reader.end()
        return status, value

    def commit(self, handle, offset=0, count=0):
        """The write verifier."""
        status, reader = yield from self.call(21, opaque(handle) + struct.pack(">QI", offset, count))
        weak_cache(reader)
        value = bytes(reader.take(8)) if status == OK else None
        reader.end()
        return status, value


class Mounter:
    """Finds the ports of a server, or takes those that were given, and mounts exports. Version 1 of MOUNT belongs to
    version 2 of NFS."""

    def __init__(
            self, engine, host, kind, credential, settings, port=None, mount_port=None, version=3):
        self.version, self.mount_version = version, 1 if version == 2 else 3
        self.engine, self.host, self.kind = engine, host, kind
        self.credential, self.settings = credential, settings
        self.port, self.mount_port = port, mount_port

    def channel(self, port):
        return Channel(self.engine, self.host, port, self.kind, self.credential, self.settings)

    def find(self):
        """Asks the portmapper for the ports that were not given."""
        if self.port and self.mount_port:
            return
        channel = self.channel(111)
        protocol = 6 if self.kind == "tcp" else 17
        for name, program, version in [
                ("port", NFS, self.version), ("mount_port", MOUNT, self.mount_version)]:
            if getattr(self, name):
                continue
            reader = yield Call(
                channel, PORTMAPPER, 2, 3, struct.pack(">IIII", program, version, protocol, 0))
            found = reader.number()
            if not found:
                raise CallFailed("portmapper", f"program {program} is not registered over {self.kind}")
            setattr(self, name, found)
        channel.close()

    def ask(self, procedure, arguments=b""):
        channel = self.channel(self.mount_port)
        try:
            return (yield Call(channel, MOUNT, self.mount_version, procedure, arguments))
        finally:
            channel.close()

    def mount(self, path):
        """The root handle of an export."""
        reader = yield from self.ask(1, string(path))
        status = reader.number()
        if status != OK:
            raise NFSError(f"MNT {path}", status)
        if self.mount_version == 1:
            handle = bytes(reader.take(HANDLE // 2))
        else:
            handle = reader.opaque(HANDLE)
            for _ in range(reader.number()):
                reader.number()
        reader.end()
        return handle

    def unmount(self, path):
        reader = yield from self.ask(3, string(path))
        reader.end()

    def exports(self):
        """Paths of the exports."""
        reader = yield from self.ask(5)
        found = []
        while reader.number():
            found.append(reader.opaque(1024).decode())
            while reader.number():
                reader.opaque(255)
        reader.end()
        return found

    def mounts(self):
        """Pairs of host and path, as DUMP lists them."""
        reader = yield from self.ask(2)
        found = []
        while reader.number():
            found.append((reader.opaque(255).decode(), reader.opaque(1024).decode()))
        reader.end()
        return found
