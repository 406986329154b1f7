"""The walk of walk.py in NFS version 2: all of its procedures, with results that are known."""
from .nfs import DIRECTORY, EXIST, ISDIR, LINK, NOENT, NOTDIR, NOTEMPTY, OK, STALE
from .nfs2 import DATA, HANDLE, Client2
from .rpc import Channel
from .walk import WalkLoad


class Walk2Load(WalkLoad):
    LISTINGS = [(False, size) for size in (512, 1024, 4096, 8192)]

    def __init__(self, options):
        super().__init__(options)
        self.largest = min(DATA, options.largest or DATA)

    def client(self):
        return Client2(Channel(
            self.engine, self.options.server, self.mounter.port, self.options.transport, self.credential,
            self.settings))

    def create(self, directory, name):
        return self.nfs.create(directory, name)

    def flush(self, file):
        """Writes are stable."""
        yield from self.ok("GETATTR", self.nfs.getattr(file))

    def clear(self, directory, name):
        status, found = yield from self.nfs.lookup(directory, name)
        if status != OK:
            return
        for below in (yield from self.nfs.listing(found[0])):
            _, attributes = yield from self.ok(f"LOOKUP {below}", self.nfs.lookup(found[0], below))
            if attributes.type == DIRECTORY:
                yield from self.clear(found[0], below)
            else:
                yield from self.ok(f"REMOVE {below}", self.nfs.remove(found[0], below))
        yield from self.ok(f"RMDIR {name}", self.nfs.rmdir(directory, name))

    def attributes(self, export):
        nfs, root, top = self.nfs, self.roots[export], self.handles[export]
        yield from nfs.null()
        yield from nfs.root()
        yield from nfs.writecache()
        sizes = yield from self.ok("STATFS", nfs.statfs(root))
        attributes = yield from self.ok("GETATTR", nfs.getattr(top))
        self.same("type", attributes.type, DIRECTORY)
        up, _ = yield from self.ok("LOOKUP ..", nfs.lookup(top, ".."))
        self.same("handle of ..", up.hex(), root.hex())
        itself, _ = yield from self.ok("LOOKUP .", nfs.lookup(top, "."))
        self.same("handle of .", itself.hex(), top.hex())
        attributes = yield from self.ok("SETATTR", nfs.setattr(top, mode=0o750))
        self.same("mode of SETATTR", attributes.mode & 0o7777, 0o750)
        attributes = yield from self.ok("GETATTR", nfs.getattr(top))
        self.same("mode", attributes.mode & 0o7777, 0o750)
        yield from self.is_status("GETATTR of a foreign handle", nfs.getattr(bytes(HANDLE)), STALE)
        return {"handle": root.hex(), "tsize": sizes[0]}

    def names(self, export):
        nfs, top = self.nfs, self.handles[export]
        first = yield from self.file(top, "first")
        yield from self.ok("WRITE", nfs.write(first, 0, b"content"))
        handle, attributes = yield from self.ok("CREATE again", nfs.create(top, "first"))
        self.same("handle and size", (handle.hex(), attributes.size), (first.hex(), 7))
        _, attributes = yield from self.ok("CREATE again, of size 0", nfs.create(top, "first", size=0))
        self.same("size", attributes.size, 0)
        other = yield from self.file(top, "own")
        yield from self.ok("RENAME", nfs.rename(top, "first", top, "second"))
        yield from self.is_status("LOOKUP of the old name", nfs.lookup(top, "first"), NOENT)
        yield from self.is_status("RENAME again", nfs.rename(top, "first", top, "second"), NOENT)
        below, _ = yield from self.made("MKDIR", nfs.mkdir(top, "below"), top, "below")
        yield from self.is_status("MKDIR again", nfs.mkdir(top, "below"), EXIST)
        yield from self.ok("RENAME", nfs.rename(top, "second", below, "third"))
        moved, _ = yield from self.ok("LOOKUP", nfs.lookup(below, "third"))
        self.same("handle after RENAME", moved.hex(), first.hex())
        yield from self.is_status("RMDIR of one that is not empty", nfs.rmdir(top, "below"), NOTEMPTY)
        yield from self.is_status("RMDIR of a file", nfs.rmdir(below, "third"), NOTDIR)
        yield from self.is_status("READ of a directory", nfs.read(below, 0, 8), ISDIR)
        yield from self.is_status("LOOKUP in a file", nfs.lookup(first, "any"), NOTDIR)
        yield from self.ok("RENAME over", nfs.rename(below, "third", top, "own"))
        yield from self.is_status("GETATTR of what was replaced", nfs.getattr(other), STALE)
        yield from self.ok("RENAME of a directory", nfs.rename(top, "below", top, "above"))
        yield from self.ok("RMDIR", nfs.rmdir(top, "above"))
        yield from self.is_status("GETATTR of a directory that is gone", nfs.getattr(below), STALE)
        yield from self.ok("REMOVE", nfs.remove(top, "own"))
        yield from self.is_status("REMOVE again", nfs.remove(top, "own"), NOENT)
        yield from self.is_status("GETATTR of what is gone", nfs.getattr(first), STALE)

    def links(self, export):
        nfs, top = self.nfs, self.handles[export]
        file = yield from self.file(top, "file")
        target = "some/where/" + "far/" * 50 + "\u00e4"
        symbolic, attributes = yield from self.made(
            "SYMLINK", nfs.symlink(top, "symbolic", target), top, "symbolic")
        self.same("type", attributes.type, LINK)
        found = yield from self.ok("READLINK", nfs.readlink(symbolic))
        self.same("READLINK", found, target)
        yield from self.is_status("SYMLINK again", nfs.symlink(top, "symbolic", target), EXIST)
        yield from self.ok("LINK", nfs.link(file, top, "hard"))
        yield from self.is_status("LINK again", nfs.link(file, top, "hard"), EXIST)
        hard, attributes = yield from self.ok("LOOKUP", nfs.lookup(top, "hard"))
        self.same("handle of the link", hard.hex(), file.hex())
        self.same("links", attributes.nlink, 2)
        yield from self.ok("REMOVE file", nfs.remove(top, "file"))
        attributes = yield from self.ok("GETATTR of the other name's file", nfs.getattr(file))
        self.same("links that are left", attributes.nlink, 1)
        for name in ("hard", "symbolic"):
            yield from self.ok(f"REMOVE {name}", nfs.remove(top, name))

    def data(self, export):
        """Sizes that are no multiple of anything, holes, the end of a file."""
        nfs, top = self.nfs, self.handles[export]
        file = yield from self.file(top, "data")
        for size in self.sizes():
            data = self.random.randbytes(size)
            offset = self.random.randrange(100000)
            attributes = yield from self.ok("SETATTR", nfs.setattr(file, size=0))
            self.same("size of SETATTR", attributes.size, 0)
            done = yield from self.ok("WRITE", nfs.write(file, offset, data))
            self.same("size of WRITE", done.attributes.size, offset + size)
            got = yield from self.ok("READ", nfs.read(file, offset, size))
            self.same(f"{size} octets", got.data, data)
            hole = min(offset, 4096, self.largest)
            got = yield from self.ok("READ of the hole", nfs.read(file, 0, hole))
            self.same("hole", got.data, bytes(hole))
            got = yield from self.ok("READ over the end", nfs.read(file, offset + size - 1, 4096))
            self.same("READ over the end", got.data, data[-1:])
        got = yield from self.ok("READ behind the end", nfs.read(file, 1 << 30, 4096))
        self.same("READ behind the end", got.data, b"")
        yield from self.ok("REMOVE", nfs.remove(top, "data"))
