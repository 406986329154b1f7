"""A server of NFS version 2 and MOUNT version 1 (RFC 1094), with a portmapper (RFC 1833, version 2) if wanted."""
import collections
import errno
import os
import selectors
import socket
import stat
import struct

from .files2 import NAME_MOST, STATUS, Refused
from .rpc import LAST_FRAGMENT
from .xdr import WORD, ProtocolError, Reader, opaque

PORTMAPPER, NFS, MOUNT = 100000, 100003, 100005
VERSIONS = {PORTMAPPER: 2, NFS: 2, MOUNT: 1}
#: RFC 1094 section 2.3: MAXDATA, MAXPATHLEN.
DATA_MOST, PATH_MOST, HANDLE = 8192, 1024, 32
RECORD_MOST = 65536
#: Octets of replies that wait for one connection; it is not read while there are more.
UNSENT_MOST = 1 << 20
UNCHANGED = 0xFFFFFFFF
GARBAGE, UNAVAILABLE, MISMATCH, NO_PROCEDURE, SYSTEM = 4, 1, 2, 3, 5


class Call:
    """The head of a call (RFC 5531 section 9); `reader` stands at the arguments."""

    def __init__(self, message):
        self.reader = reader = Reader(message)
        self.xid = reader.number()
        if reader.number() != 0:
            raise ProtocolError("not a call")
        self.rpc = reader.number()
        self.program, self.version, self.procedure = (reader.number() for _ in range(3))
        self.flavor = reader.number()
        reader.opaque(400)
        reader.number()
        reader.opaque(400)


def accepted(xid, status, results=b""):
    return struct.pack(">IIIIII", xid, 1, 0, 0, 0, status) + results


class Programs:
    """What calls are answered with. A procedure takes a reader and returns its results."""

    def __init__(self, files, ports):
        self.files = files
        # By program: UDP and TCP have the same.
        self.ports = ports
        self.mounts = []
        self.procedures = {
            PORTMAPPER: {0: self.null, 1: self.no_change, 2: self.no_change, 3: self.port, 4: self.all_ports},
            MOUNT: {0: self.null, 1: self.mount, 2: self.dump, 3: self.unmount, 4: self.unmount_all,
                    5: self.export},
            NFS: {0: self.null, 1: self.getattr, 2: self.setattr, 3: self.null, 4: self.lookup,
                  5: self.readlink, 6: self.read, 7: self.null, 8: self.write, 9: self.create,
                  10: self.remove, 11: self.rename, 12: self.link, 13: self.symlink, 14: self.mkdir,
                  15: self.rmdir, 16: self.readdir, 17: self.statfs},
        }

    def answer(self, message, program, peer):
        """The reply; None when the message is no call."""
        try:
            call = Call(message)
        except ProtocolError:
            return None
        if call.rpc != 2:
            # MSG_DENIED, RPC_MISMATCH.
            return struct.pack(">IIIIII", call.xid, 1, 1, 0, 2, 2)
        if call.flavor > 1:
            # MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK: AUTH_NONE and AUTH_SYS are taken.
            return struct.pack(">IIIII", call.xid, 1, 1, 1, 5)
        if call.program != program:
            return accepted(call.xid, UNAVAILABLE)
        version = VERSIONS[program]
        if call.version != version:
            return accepted(call.xid, MISMATCH, struct.pack(">II", version, version))
        procedure = self.procedures[program].get(call.procedure)
        if procedure is None:
            return accepted(call.xid, NO_PROCEDURE)
        self.peer = peer
        try:
            return accepted(call.xid, 0, procedure(call.reader))
        except ProtocolError:
            return accepted(call.xid, GARBAGE)
        except Refused as refusal:
            return accepted(call.xid, 0, WORD.pack(refusal.status))
        except OSError as error:
            status = STATUS.get(errno.errorcode.get(error.errno), STATUS["EIO"])
            return accepted(call.xid, 0, WORD.pack(status))

    @staticmethod
    def null(reader):
        return b""

    # Portmapper (RFC 1833 section 3)

    @staticmethod
    def no_change(reader):
        return WORD.pack(0)

    def port(self, reader):
        program, version, transport, _ = (reader.number() for _ in range(4))
        is_here = VERSIONS.get(program) == version and transport in (6, 17)
        return WORD.pack(self.ports.get(program, 0) if is_here else 0)

    def all_ports(self, reader):
        return b"".join(
            struct.pack(">IIIII", 1, program, VERSIONS[program], transport, port)
            for program, port in self.ports.items() for transport in (6, 17)) + WORD.pack(0)

    # MOUNT (RFC 1094 appendix A)

    def mount(self, reader):
        path = reader.opaque(PATH_MOST)
        handle = self.files.mounted(path)
        if (self.peer, path) not in self.mounts:
            self.mounts.append((self.peer, path))
        return WORD.pack(0) + handle

    def dump(self, reader):
        return b"".join(
            WORD.pack(1) + opaque(peer.encode()) + opaque(path) for peer, path in self.mounts) + WORD.pack(0)

    def unmount(self, reader):
        path = reader.opaque(PATH_MOST)
        self.mounts = [entry for entry in self.mounts if entry != (self.peer, path)]
        return b""

    def unmount_all(self, reader):
        self.mounts = [entry for entry in self.mounts if entry[0] != self.peer]
        return b""

    def export(self, reader):
        return b"".join(
            WORD.pack(1) + opaque(export.path.encode()) + WORD.pack(0)
            for export in self.files.exports) + WORD.pack(0)

    # Arguments of NFS

    def handle(self, reader):
        return self.files.find(reader.take(HANDLE))

    def place(self, reader, makes=False):
        """diropargs: export, number of the directory, name."""
        handle, name = reader.take(HANDLE), reader.opaque(NAME_MOST)
        return lambda: self.found_place(handle, name, makes)

    def found_place(self, handle, name, makes):
        export, directory = self.files.find(handle)
        if not stat.S_ISDIR(os.lstat(export.file(directory)).st_mode):
            raise Refused("ENOTDIR")
        if not name or b"/" in name or b"\0" in name:
            raise Refused("EACCES")
        if name in (b".", b".."):
            raise Refused("EEXIST" if makes else "EACCES")
        return export, directory, name

    @staticmethod
    def settable(reader):
        """sattr: mode, uid, gid, size, atime, mtime; all ones: it stays."""
        return reader.unpack(struct.Struct(">8I"))

    @staticmethod
    def change(path, settable):
        mode, uid, gid, size, atime, atime_us, mtime, mtime_us = settable
        found = os.lstat(path)
        if uid != UNCHANGED or gid != UNCHANGED:
            os.chown(path, *(-1 if each == UNCHANGED else each for each in (uid, gid)), follow_symlinks=False)
        if mode != UNCHANGED and not stat.S_ISLNK(found.st_mode):
            os.chmod(path, mode & 0o7777)
        if size != UNCHANGED:
            if stat.S_ISDIR(found.st_mode):
                raise Refused("EISDIR")
            if not stat.S_ISREG(found.st_mode):
                raise Refused("EACCES")
            os.truncate(path, size)
        if atime != UNCHANGED or mtime != UNCHANGED:
            times = (found.st_atime_ns if atime == UNCHANGED else atime * 10**9 + atime_us * 1000,
                     found.st_mtime_ns if mtime == UNCHANGED else mtime * 10**9 + mtime_us * 1000)
            os.utime(path, ns=times, follow_symlinks=False)

    # Results of NFS

    @staticmethod
    def attributes(export, number):
        """attrstat."""
        return WORD.pack(0) + export.attributes(number, os.lstat(export.file(number)))

    @staticmethod
    def file_results(export, directory, name):
        """diropres."""
        number, found = export.number(directory, name)
        return WORD.pack(0) + export.handle(number) + export.attributes(number, found)

    def regular(self, export, number):
        path = export.file(number)
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise Refused("EISDIR")
        if not stat.S_ISREG(mode):
            raise Refused("EACCES")
        return path

    # Procedures (RFC 1094 section 2.2)

    def getattr(self, reader):
        return self.attributes(*self.handle(reader))

    def setattr(self, reader):
        handle, settable = reader.take(HANDLE), self.settable(reader)
        export, number = self.files.find(handle)
        self.change(export.file(number), settable)
        return self.attributes(export, number)

    def lookup(self, reader):
        handle, name = reader.take(HANDLE), reader.opaque(NAME_MOST)
        if name in (b".", b".."):
            export, number = self.files.find(handle)
            number = export.parent(number) if name == b".." else number
            return WORD.pack(0) + export.handle(number) + self.attributes(export, number)[4:]
        return self.file_results(*self.found_place(handle, name, False))

    def readlink(self, reader):
        export, number = self.handle(reader)
        path = export.file(number)
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            raise Refused("ENXIO")
        return WORD.pack(0) + opaque(os.readlink(path)[:PATH_MOST])

    def read(self, reader):
        handle = reader.take(HANDLE)
        offset, count, _ = (reader.number() for _ in range(3))
        export, number = self.files.find(handle)
        with open(self.regular(export, number), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), min(count, DATA_MOST), offset)
        return self.attributes(export, number) + opaque(data)

    def write(self, reader):
        handle = reader.take(HANDLE)
        _, offset, _ = (reader.number() for _ in range(3))
        data = reader.opaque(DATA_MOST)
        export, number = self.files.find(handle)
        with open(self.regular(export, number), "r+b", buffering=0) as file:
            if os.pwrite(file.fileno(), data, offset) != len(data):
                raise Refused("ENOSPC")
        return self.attributes(export, number)

    def create(self, reader):
        """What is there is taken, and cut when the size says it."""
        place, settable = self.place(reader, makes=True), self.settable(reader)
        export, directory, name = place()
        path = os.path.join(export.file(directory), name)
        mode = 0o666 if settable[0] == UNCHANGED else settable[0] & 0o7777
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
        except FileExistsError:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise
        self.change(path, settable)
        return self.file_results(export, directory, name)

    def remove(self, reader):
        export, directory, name = self.place(reader)()
        path = os.path.join(export.file(directory), name)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            raise Refused("EISDIR")
        os.unlink(path)
        export.removed(directory, name, found)
        return WORD.pack(0)

    def rename(self, reader):
        source, target = self.place(reader), self.place(reader)
        export, directory, name = source()
        other, new_directory, new_name = target()
        if export is not other:
            raise Refused("EXDEV")
        old = os.path.join(export.file(directory), name)
        new = os.path.join(export.file(new_directory), new_name)
        number, _ = export.number(directory, name)
        try:
            replaced = os.lstat(new)
        except FileNotFoundError:
            replaced = None
        if replaced and replaced.st_ino == export.inodes[number]:
            return WORD.pack(0)
        os.rename(old, new)
        if replaced:
            export.removed(new_directory, new_name, replaced)
        export.places[number].remove((directory, name))
        export.number(new_directory, new_name)
        return WORD.pack(0)

    def link(self, reader):
        handle, place = reader.take(HANDLE), self.place(reader, makes=True)
        export, number = self.files.find(handle)
        other, directory, name = place()
        if export is not other:
            raise Refused("EXDEV")
        path = export.file(number)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise Refused("EPERM")
        os.link(path, os.path.join(export.file(directory), name), follow_symlinks=False)
        export.number(directory, name)
        return WORD.pack(0)

    def symlink(self, reader):
        place, text = self.place(reader, makes=True), reader.opaque(PATH_MOST)
        self.settable(reader)
        export, directory, name = place()
        if not text or b"\0" in text:
            raise Refused("EACCES")
        os.symlink(text, os.path.join(export.file(directory), name))
        export.number(directory, name)
        return WORD.pack(0)

    def mkdir(self, reader):
        place, settable = self.place(reader, makes=True), self.settable(reader)
        export, directory, name = place()
        path = os.path.join(export.file(directory), name)
        os.mkdir(path)
        self.change(path, (*settable[:3], UNCHANGED, *settable[4:]))
        return self.file_results(export, directory, name)

    def rmdir(self, reader):
        export, directory, name = self.place(reader)()
        path = os.path.join(export.file(directory), name)
        found = os.lstat(path)
        os.rmdir(path)
        export.removed(directory, name, found)
        return WORD.pack(0)

    def readdir(self, reader):
        """RFC 1094 section 2.2.17: `count` is the most that the list has in octets."""
        handle = reader.take(HANDLE)
        cookie, count = reader.number(), reader.number()
        export, directory = self.files.find(handle)
        if not stat.S_ISDIR(os.lstat(export.file(directory)).st_mode):
            raise Refused("ENOTDIR")
        results, is_end = b"", True
        # The word that ends the list, and that for the end of the directory.
        most = min(count, DATA_MOST) - 8
        for place, name in export.entries(directory):
            if place <= cookie:
                continue
            if name == b".":
                number = directory
            elif name == b"..":
                number = export.parent(directory)
            else:
                try:
                    number, _ = export.number(directory, name)
                except FileNotFoundError:
                    continue
            entry = struct.pack(">II", 1, number) + opaque(name) + WORD.pack(place)
            if len(results) + len(entry) > most:
                is_end = False
                break
            results += entry
        return WORD.pack(0) + results + struct.pack(">II", 0, is_end)

    def statfs(self, reader):
        export, number = self.handle(reader)
        found = os.statvfs(export.file(number))
        blocks = (min(value, 0x7FFFFFFF) for value in (found.f_blocks, found.f_bfree, found.f_bavail))
        return struct.pack(">IIIIII", 0, DATA_MOST, found.f_frsize, *blocks)


class Connection:
    """A TCP connection with its records (RFC 5531 section 11)."""

    def __init__(self, connected, program, peer):
        self.socket, self.program, self.peer = connected, program, peer
        self.buffer, self.record, self.unsent = bytearray(), bytearray(), bytearray()

    def records(self):
        """Those that are whole; raises ProtocolError for one that is too long."""
        found = collections.deque()
        while len(self.buffer) >= 4:
            mark = WORD.unpack_from(self.buffer)[0]
            length = mark & ~LAST_FRAGMENT
            if length + len(self.record) > RECORD_MOST:
                raise ProtocolError("record too long")
            if len(self.buffer) < 4 + length:
                break
            self.record += self.buffer[4:4 + length]
            del self.buffer[:4 + length]
            if mark & LAST_FRAGMENT:
                found.append(bytes(self.record))
                self.record.clear()
        return found


class Server:
    def __init__(self, address, programs):
        self.programs = programs
        self.selector = selectors.DefaultSelector()
        for program, port in programs.ports.items():
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind((address, port))
                opened.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    opened.listen(64)
                    handler = self.accept
                else:
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                    handler = self.datagram
                self.selector.register(opened, selectors.EVENT_READ, (handler, program))

    def run(self):
        while True:
            for key, events in self.selector.select():
                handler, what = key.data
                handler(key.fileobj, what, events)

    def datagram(self, opened, program, events):
        try:
            message, peer = opened.recvfrom(65536)
            reply = self.programs.answer(message, program, peer[0])
            if reply is not None:
                opened.sendto(reply, peer)
        except OSError:
            # A client that is gone, or a full buffer: it will ask again.
            pass

    def accept(self, opened, program, events):
        try:
            connected, peer = opened.accept()
        except OSError:
            return
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(connected, program, peer[0])
        self.selector.register(connected, selectors.EVENT_READ, (self.stream, connection))

    def stream(self, connected, connection, events):
        try:
            if events & selectors.EVENT_READ:
                data = connected.recv(RECORD_MOST)
                if not data:
                    raise ConnectionResetError
                connection.buffer += data
                for record in connection.records():
                    reply = self.programs.answer(record, connection.program, connection.peer)
                    if reply is None:
                        raise ConnectionResetError
                    connection.unsent += WORD.pack(LAST_FRAGMENT | len(reply)) + reply
            if connection.unsent:
                del connection.unsent[:connected.send(connection.unsent)]
        except BlockingIOError:
            pass
        except (OSError, ProtocolError):
            self.selector.unregister(connected)
            connected.close()
            return
        wanted = selectors.EVENT_WRITE if connection.unsent else 0
        if len(connection.unsent) < UNSENT_MOST:
            wanted |= selectors.EVENT_READ
        self.selector.modify(connected, wanted, (self.stream, connection))
