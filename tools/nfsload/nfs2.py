"""NFS version 2 (RFC 1094) from the client's side; what is like version 3 has its names and results in nfs.py."""
import collections
import struct

from .nfs import FILE_SYNC, NFS, OK, Entry, NFSError, WriteResult
from .rpc import Call
from .xdr import ProtocolError, opaque, string

HANDLE = 32
#: MAXDATA: octets of a READ or WRITE.
DATA = 8192
UNCHANGED = 0xFFFFFFFF
FATTR = struct.Struct(">17I")
Attributes2 = collections.namedtuple(
    "Attributes2", "type mode nlink uid gid size blocksize rdev blocks fsid fileid "
    "atime atime_us mtime mtime_us ctime ctime_us")
ReadResult2 = collections.namedtuple("ReadResult2", "data attributes")


def settable(mode=None, size=None):
    """sattr; what is not given stays."""
    words = [UNCHANGED if word is None else word for word in (mode, None, None, size)]
    return struct.pack(">8I", *words, *[UNCHANGED] * 4)


class Client2:
    """The procedures, as generators for an engine; each returns its status and what it brings."""

    def __init__(self, channel):
        self.channel = channel

    @property
    def engine(self):
        return self.channel.engine

    def call(self, procedure, arguments, label=None):
        reader = yield Call(self.channel, NFS, 2, procedure, arguments, label)
        return reader.number(), reader

    def void(self, procedure):
        reader = yield Call(self.channel, NFS, 2, procedure, b"")
        reader.end()

    def null(self):
        yield from self.void(0)

    def root(self):
        yield from self.void(3)

    def writecache(self):
        yield from self.void(7)

    def attributes(self, procedure, arguments, label=None):
        """attrstat"""
        status, reader = yield from self.call(procedure, arguments, label)
        value = Attributes2(*reader.unpack(FATTR)) if status == OK else None
        reader.end()
        return status, value

    def found(self, procedure, arguments):
        """diropres: handle and attributes."""
        status, reader = yield from self.call(procedure, arguments)
        value = None
        if status == OK:
            handle = bytes(reader.take(HANDLE))
            value = handle, Attributes2(*reader.unpack(FATTR))
        reader.end()
        return status, value

    def done(self, procedure, arguments):
        """A status alone."""
        status, reader = yield from self.call(procedure, arguments)
        reader.end()
        return status, None

    def getattr(self, handle):
        return (yield from self.attributes(1, handle))

    def setattr(self, handle, mode=None, size=None):
        return (yield from self.attributes(2, handle + settable(mode, size)))

    def lookup(self, directory, name):
        return (yield from self.found(4, directory + string(name)))

    def readlink(self, handle):
        status, reader = yield from self.call(5, handle)
        value = reader.opaque(1024).decode() if status == OK else None
        reader.end()
        return status, value

    def read(self, handle, offset, count, label=None):
        status, reader = yield from self.call(6, handle + struct.pack(">III", offset, count, 0), label)
        value = None
        if status == OK:
            attributes = Attributes2(*reader.unpack(FATTR))
            value = ReadResult2(reader.opaque(count), attributes)
        reader.end()
        return status, value

    def write(self, handle, offset, data, stable=FILE_SYNC, label=None):
        """Version 2 has no other writes than stable ones."""
        status, attributes = yield from self.attributes(
            8, handle + struct.pack(">III", 0, offset, 0) + opaque(data), label)
        value = WriteResult(len(data), FILE_SYNC, None, attributes) if status == OK else None
        return status, value

    def create(self, directory, name, mode=0o666, size=None):
        return (yield from self.found(9, directory + string(name) + settable(mode, size)))

    def mkdir(self, directory, name, mode=0o777):
        return (yield from self.found(14, directory + string(name) + settable(mode)))

    def symlink(self, directory, name, target):
        """Version 2 does not tell its handle."""
        status, _ = yield from self.done(
            13, directory + string(name) + string(target) + settable(0o777))
        return status, (None, None)

    def remove(self, directory, name):
        return (yield from self.done(10, directory + string(name)))

    def rmdir(self, directory, name):
        return (yield from self.done(15, directory + string(name)))

    def rename(self, source, name, target, new):
        return (yield from self.done(11, source + string(name) + target + string(new)))

    def link(self, handle, directory, name):
        return (yield from self.done(12, handle + directory + string(name)))

    def readdir(self, directory, cookie=0, count=DATA):
        """Entries, and whether they are the last."""
        status, reader = yield from self.call(16, directory + struct.pack(">II", cookie, count))
        if status != OK:
            reader.end()
            return status, None
        entries = []
        begin = reader.at
        while reader.number():
            fileid = reader.number()
            name = reader.opaque(255).decode()
            entries.append(Entry(fileid, name, reader.number(), None, None))
        is_end = bool(reader.number())
        if reader.at - begin > count:
            raise ProtocolError(f"READDIR of {count} octets brings {reader.at - begin}")
        reader.end()
        return status, (entries, is_end)

    def listing(self, directory, count=DATA, plus=False):
        """All entries of a directory but `.` and `..`, by name. There is one way to list."""
        found, cookie = {}, 0
        while True:
            status, part = yield from self.readdir(directory, cookie, count)
            if status != OK:
                raise NFSError("READDIR", status)
            entries, is_end = part
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

    def statfs(self, handle):
        """tsize, bsize, blocks, bfree, bavail."""
        status, reader = yield from self.call(17, handle)
        value = reader.unpack(struct.Struct(">5I")) if status == OK else None
        reader.end()
        return status, value
