"""One thing after the other: every procedure with results that are known, then all exports at once."""
import hashlib
import os
import random
import time

from .load import FAULTS, Load, kind_of
from .nfs import (DIRECTORY, EXCLUSIVE, EXIST, FIFO, GUARDED, LINK, NOENT, NOTEMPTY, OK, REGULAR,
                  STALE, UNCHECKED, UNSTABLE, XDEV, status_name)
from .pattern import BLOCK, Pattern
from .rpc import Gate


class Wrong(Exception):
    """Not what was to come."""


class WalkLoad(Load):
    #: Ways to list a directory: with READDIRPLUS or not, and in how many octets at a time.
    LISTINGS = [(plus, size) for plus in (False, True) for size in (1024, 8192, 32768)]

    def __init__(self, options):
        super().__init__(options)
        most = 1 << 20 if options.transport == "tcp" else 32 << 10
        self.largest = min(most, options.largest or most)
        self.name = f"nfs-load-{options.seed}-walk"
        self.steps = []
        self.handles = {}
        self.random = random.Random(options.seed)
        self.local = dict(entry.split("=", 1) for entry in options.local)

    def run(self):
        self.prepare()
        self.results.start()
        print("running", file=self.options.stderr, flush=True)
        # Everything over one connection, or one flow.
        self.nfs = self.client()
        self.step("mount", "all", self.mount())
        for export in self.options.export:
            for name in ("attributes", "names", "links", "data", "copy", "many"):
                self.step(name, export, getattr(self, name)(export))
        if len(self.options.export) > 1:
            self.step("across", "all", self.across())
            self.step("interleaved", "all", self.interleaved())
        for export in self.options.export:
            self.step("end", export, self.end_of(export))
        self.step("unmount", "all", self.unmount())

    def step(self, name, export, generator):
        if self.is_ended:
            return generator.close()
        begin = time.monotonic()
        error = None
        try:
            detail = self.engine.complete(generator, self.options.seconds)
        except (*FAULTS, Wrong) as caught:
            error = str(caught)
            kind = "wrong" if isinstance(caught, Wrong) else kind_of(caught)
            self.results.error(kind, f"{export} {name}", error)
        self.steps.append({
            "step": name, "export": export, "ok": error is None, "error": error,
            "ms": round((time.monotonic() - begin) * 1000, 1),
            **(detail if error is None and detail else {})})

    # Helpers

    def ok(self, what, generator):
        status, value = yield from generator
        if status != OK:
            raise Wrong(f"{what}: {status_name(status)}")
        return value

    def is_status(self, what, generator, *expected):
        status, _ = yield from generator
        if status not in expected:
            raise Wrong(f"{what}: {status_name(status)} instead of "
                        + " or ".join(status_name(each) for each in expected))

    @staticmethod
    def same(what, found, wanted):
        if found != wanted:
            raise Wrong(f"{what}: {str(found)[:120]} instead of {str(wanted)[:120]}")

    def made(self, what, generator, directory, name):
        """The handle of what was made; the reply may leave it out."""
        handle, _ = yield from self.ok(what, generator)
        looked, attributes = yield from self.ok(f"LOOKUP {name}", self.nfs.lookup(directory, name))
        if handle is not None:
            self.same(f"handle of {name}", looked.hex(), handle.hex())
        return looked, attributes

    def create(self, directory, name):
        return self.nfs.create(directory, name, GUARDED)

    def file(self, directory, name):
        handle, _ = yield from self.made(
            f"CREATE {name}", self.create(directory, name), directory, name)
        return handle

    def flush(self, file):
        """What was written is to last."""
        yield from self.ok("COMMIT", self.nfs.commit(file))

    def sizes(self):
        """Octets of writes, up to the largest."""
        usual = (1, 3, 4095, 4096, 4097, 8192, 32767, 32768)
        return [size for size in usual if size < self.largest - 1] + [self.largest - 1, self.largest]

    def at_once(self, generators, most):
        """Several at a time over the one connection; the first that fails ends it."""
        source, errors = iter(generators), []
        gate = Gate(self.engine)
        running = most

        def worker():
            nonlocal running
            for generator in source:
                try:
                    yield from generator
                except (*FAULTS, Wrong) as error:
                    errors.append(error)
                if errors or self.is_ended:
                    break
            running -= 1
            if not running:
                gate.open()

        for _ in range(most):
            self.engine.spawn(worker())
        yield gate
        if errors:
            raise errors[0]
        if self.is_ended:
            raise Wrong("ended early")

    # Steps

    def mount(self):
        paths = yield from self.mounter.exports()
        for export in self.options.export:
            if export not in paths:
                raise Wrong(f"EXPORT lists {', '.join(paths)}, not {export}")
        mounts = yield from self.mounter.mounts()
        for export in self.options.export:
            yield from self.clear(self.roots[export], self.name)
            top, _ = yield from self.made(
                "MKDIR", self.nfs.mkdir(self.roots[export], self.name), self.roots[export], self.name)
            self.handles[export] = top
        return {"exports": paths, "mounts": len(mounts)}

    def clear(self, directory, name):
        """What a walk that was ended has left."""
        status, found = yield from self.nfs.lookup(directory, name)
        if status != OK:
            return
        listing = yield from self.nfs.listing(found[0], plus=True)
        for below, entry in listing.items():
            if entry.attributes and entry.attributes.type != DIRECTORY:
                yield from self.ok(f"REMOVE {below}", self.nfs.remove(found[0], below))
            else:
                yield from self.clear(found[0], below)
        yield from self.ok(f"RMDIR {name}", self.nfs.rmdir(directory, name))

    def attributes(self, export):
        nfs, root, top = self.nfs, self.roots[export], self.handles[export]
        yield from nfs.null()
        info = yield from self.ok("FSINFO", nfs.fsinfo(root))
        yield from self.ok("FSSTAT", nfs.fsstat(root))
        yield from self.ok("PATHCONF", nfs.pathconf(root))
        rights = yield from self.ok("ACCESS", nfs.access(top))
        self.same("ACCESS", rights & 0x1F, 0x1F)
        attributes = yield from self.ok("GETATTR", nfs.getattr(top))
        self.same("type", attributes.type, DIRECTORY)
        up, _ = yield from self.ok("LOOKUP ..", nfs.lookup(top, ".."))
        self.same("handle of ..", up.hex(), root.hex())
        itself, _ = yield from self.ok("LOOKUP .", nfs.lookup(top, "."))
        self.same("handle of .", itself.hex(), top.hex())
        yield from self.ok("SETATTR", nfs.setattr(top, mode=0o750))
        attributes = yield from self.ok("GETATTR", nfs.getattr(top))
        self.same("mode", attributes.mode & 0o7777, 0o750)
        return {"handle": root.hex(), "rtmax": info[0], "wtmax": info[3]}

    def names(self, export):
        nfs, top = self.nfs, self.handles[export]
        first = yield from self.file(top, "first")
        yield from self.is_status("CREATE again", nfs.create(top, "first", GUARDED), EXIST)
        handle, _ = yield from self.ok("CREATE unchecked", nfs.create(top, "first", UNCHECKED))
        self.same("handle", (handle or first).hex(), first.hex())
        yield from self.ok("CREATE exclusive", nfs.create(top, "own", EXCLUSIVE, b"verifier"))
        yield from self.ok("CREATE exclusive again", nfs.create(top, "own", EXCLUSIVE, b"verifier"))
        yield from self.is_status(
            "CREATE exclusive, other verifier", nfs.create(top, "own", EXCLUSIVE, b"VERIFIER"), EXIST)
        yield from self.ok("RENAME", nfs.rename(top, "first", top, "second"))
        yield from self.is_status("LOOKUP of the old name", nfs.lookup(top, "first"), NOENT)
        yield from self.is_status("RENAME again", nfs.rename(top, "first", top, "second"), NOENT)
        below, _ = yield from self.made("MKDIR", nfs.mkdir(top, "below"), top, "below")
        yield from self.is_status("MKDIR again", nfs.mkdir(top, "below"), EXIST)
        yield from self.ok("RENAME", nfs.rename(top, "second", below, "third"))
        moved, _ = yield from self.ok("LOOKUP", nfs.lookup(below, "third"))
        self.same("handle after RENAME", moved.hex(), first.hex())
        yield from self.is_status("RMDIR of one that is not empty", nfs.rmdir(top, "below"), NOTEMPTY, EXIST)
        yield from self.ok("RENAME over", nfs.rename(below, "third", top, "own"))
        yield from self.ok("RENAME of a directory", nfs.rename(top, "below", top, "above"))
        yield from self.ok("RMDIR", nfs.rmdir(top, "above"))
        yield from self.ok("REMOVE", nfs.remove(top, "own"))
        yield from self.is_status("REMOVE again", nfs.remove(top, "own"), NOENT)
        yield from self.is_status("GETATTR of what is gone", nfs.getattr(first), STALE, NOENT)

    def links(self, export):
        nfs, top = self.nfs, self.handles[export]
        file = yield from self.file(top, "file")
        target = "some/where/" + "far/" * 50 + "\u00e4"
        symbolic, attributes = yield from self.made(
            "SYMLINK", nfs.symlink(top, "symbolic", target), top, "symbolic")
        self.same("type", attributes.type, LINK)
        found = yield from self.ok("READLINK", nfs.readlink(symbolic))
        self.same("READLINK", found, target)
        yield from self.ok("LINK", nfs.link(file, top, "hard"))
        yield from self.is_status("LINK again", nfs.link(file, top, "hard"), EXIST)
        hard, attributes = yield from self.ok("LOOKUP", nfs.lookup(top, "hard"))
        self.same("handle of the link", hard.hex(), file.hex())
        self.same("links", attributes.nlink, 2)
        _, attributes = yield from self.made("MKNOD", nfs.mkfifo(top, "fifo"), top, "fifo")
        self.same("type", attributes.type, FIFO)
        for name in ("file", "hard", "symbolic", "fifo"):
            yield from self.ok(f"REMOVE {name}", nfs.remove(top, name))

    def data(self, export):
        """Sizes that are no multiple of anything, holes, the end of a file."""
        nfs, top = self.nfs, self.handles[export]
        file = yield from self.file(top, "data")
        for size in self.sizes():
            data = self.random.randbytes(size)
            offset = self.random.randrange(100000)
            yield from self.ok("SETATTR", nfs.setattr(file, size=0))
            done = yield from self.ok("WRITE", nfs.write(file, offset, data, UNSTABLE))
            self.same("count of WRITE", done.count, size)
            verifier = yield from self.ok("COMMIT", nfs.commit(file))
            self.same("verifier of COMMIT", verifier.hex(), done.verifier.hex())
            got = yield from self.ok("READ", nfs.read(file, offset, size))
            self.same(f"{size} octets", got.data, data)
            attributes = yield from self.ok("GETATTR", nfs.getattr(file))
            self.same("size", attributes.size, offset + size)
            hole = min(offset, 4096, self.largest)
            got = yield from self.ok("READ of the hole", nfs.read(file, 0, hole))
            self.same("hole", got.data, bytes(hole))
            got = yield from self.ok("READ over the end", nfs.read(file, offset + size - 1, 4096))
            self.same("READ over the end", (got.data, got.is_end), (data[-1:], True))
        got = yield from self.ok("READ behind the end", nfs.read(file, 1 << 40, 4096))
        self.same("READ behind the end", (got.data, got.is_end), (b"", True))
        yield from self.ok("REMOVE", nfs.remove(top, "data"))

    def copy(self, export):
        """A file of many MiB, written in pieces of the largest size in whole blocks, read back and compared."""
        size = self.options.mib << 20
        if not size:
            return None
        top = self.handles[export]
        file = yield from self.file(top, "copy")
        pattern = Pattern(self.options.seed)
        piece = max(self.largest // BLOCK, 1) * BLOCK
        number = self.options.export.index(export)

        def content(offset):
            blocks = min(piece, size - offset) // BLOCK
            return pattern.data(number, 0, offset // BLOCK, [1] * blocks)

        def write(offset):
            data = content(offset)
            done = yield from self.ok("WRITE", self.nfs.write(file, offset, data))
            self.same("count of WRITE", done.count, len(data))

        def read(offset):
            data = content(offset)
            got = yield from self.ok("READ", self.nfs.read(file, offset, len(data)))
            if got.data != data:
                at = next((i for i, (a, b) in enumerate(zip(got.data, data)) if a != b), len(got.data))
                raise Wrong(f"copy differs from octet {offset + at} on")

        begin = time.monotonic()
        yield from self.at_once((write(offset) for offset in range(0, size, piece)), self.options.depth)
        yield from self.flush(file)
        middle = time.monotonic()
        yield from self.at_once((read(offset) for offset in range(0, size, piece)), self.options.depth)
        end = time.monotonic()
        if export in self.local:
            wanted, found = hashlib.sha256(), hashlib.sha256()
            for offset in range(0, size, piece):
                wanted.update(content(offset))
            with open(f"{self.local[export]}/{self.name}/copy", "rb") as opened:
                while part := opened.read(1 << 20):
                    found.update(part)
            self.same("the server's own file", found.hexdigest(), wanted.hexdigest())
        yield from self.ok("REMOVE", self.nfs.remove(top, "copy"))
        return {"mib": self.options.mib, "write_mb_per_second": round(size / 1e6 / (middle - begin), 1),
                "read_mb_per_second": round(size / 1e6 / (end - middle), 1)}

    def many(self, export):
        """A directory of many entries, listed both ways."""
        nfs, top, count = self.nfs, self.handles[export], self.options.entries
        below, _ = yield from self.made("MKDIR", nfs.mkdir(top, "many"), top, "many")
        handles = {}

        def create(name):
            handle, attributes = yield from self.ok("CREATE", self.create(below, name))
            if handle is None or attributes is None:
                handle, attributes = yield from self.ok("LOOKUP", nfs.lookup(below, name))
            handles[name] = handle, attributes.fileid

        def remove(name):
            yield from self.ok("REMOVE", nfs.remove(below, name))

        names = [f"entry-{number:06}" + "x" * (number % 60) for number in range(count)]
        yield from self.at_once((create(name) for name in names), self.options.depth)
        took = {}
        for plus, size in self.LISTINGS:
            word = "READDIRPLUS" if plus else "READDIR"
            begin = time.monotonic()
            found = yield from nfs.listing(below, size, plus)
            took[f"{word.lower()}_{size}_ms"] = round((time.monotonic() - begin) * 1000, 1)
            self.same(f"{word}: number of entries", len(found), count)
            for name, (handle, fileid) in handles.items():
                if name not in found:
                    raise Wrong(f"{word}: {name} is missing")
                entry = found[name]
                self.same(f"{word}: file of {name}", entry.fileid, fileid)
                if entry.handle is not None:
                    self.same(f"{word}: handle of {name}", entry.handle.hex(), handle.hex())
                if entry.attributes:
                    self.same(f"{word}: type of {name}", entry.attributes.type, REGULAR)
        if export in self.local:
            self.same("the server's own directory",
                      sorted(os.listdir(f"{self.local[export]}/{self.name}/many")), sorted(names))
        yield from self.at_once((remove(name) for name in names), self.options.depth)
        found = yield from nfs.listing(below)
        self.same("entries that are left", sorted(found), [])
        yield from self.ok("RMDIR", nfs.rmdir(top, "many"))
        return {"entries": count, **took}

    def across(self):
        """What would have to be at two exports at once is refused, and both stay as they are."""
        first, second = self.options.export[:2]
        source, target = self.handles[first], self.handles[second]
        file = yield from self.file(source, "here")
        yield from self.is_status(
            f"RENAME {first} to {second}", self.nfs.rename(source, "here", target, "there"), XDEV)
        yield from self.is_status(
            f"LINK {first} to {second}", self.nfs.link(file, target, "there"), XDEV)
        yield from self.is_status("LOOKUP", self.nfs.lookup(target, "there"), NOENT)
        yield from self.ok("REMOVE", self.nfs.remove(source, "here"))

    def interleaved(self):
        """Calls for all exports in flight at the same time, over the one connection."""
        exports = self.options.export
        files = {}
        for export in exports:
            files[export] = yield from self.file(self.handles[export], "interleaved")
        pattern = Pattern(self.options.seed + 1)

        def one(number):
            index = number % len(exports)
            export = exports[index]
            data = pattern.data(index, 1, number, [number])
            yield from self.ok("WRITE", self.nfs.write(files[export], number * BLOCK, data, UNSTABLE))
            got = yield from self.ok("READ", self.nfs.read(files[export], number * BLOCK, BLOCK))
            if got.data != data:
                wrong = pattern.explain(got.data.ljust(BLOCK, b"\0"), index, 1, number, {number})
                raise Wrong(f"{export}: block {number}: {wrong}")
            handle, _ = yield from self.ok("LOOKUP", self.nfs.lookup(self.handles[export], "interleaved"))
            self.same(f"handle in {export}", handle.hex(), files[export].hex())

        count = 64 * len(exports)
        yield from self.at_once((one(number) for number in range(count)), self.options.depth)
        for index, export in enumerate(exports):
            numbers = range(index, count, len(exports))
            for number in numbers:
                got = yield from self.ok("READ", self.nfs.read(files[export], number * BLOCK, BLOCK))
                self.same(f"{export}: block {number}", got.data, pattern.data(index, 1, number, [number]))
            yield from self.ok("REMOVE", self.nfs.remove(self.handles[export], "interleaved"))
        return {"calls": 3 * count}

    def end_of(self, export):
        found = yield from self.nfs.listing(self.handles[export], plus=True)
        self.same("what is left", sorted(found), [])
        if not self.options.keep:
            yield from self.ok("RMDIR", self.nfs.rmdir(self.roots[export], self.name))

    def unmount(self):
        for export in self.options.export:
            yield from self.mounter.unmount(export)

    def report(self):
        report = self.results.report({
            "steps": self.steps,
            "roots": {export: handle.hex() for export, handle in self.roots.items()}})
        report["requests"] = len(self.steps)
        report["ok"] = report["ok"] and bool(self.steps) and not self.is_ended
        return report
