"""The operations of a worker of names.py, each with the one result that is right."""
from .nfs import (DIRECTORY, EXCLUSIVE, EXIST, FIFO, GUARDED, LINK, NOENT, NOTDIR, NOTEMPTY, OK, REGULAR,
                  UNCHECKED)

TOKEN = 64
DEEPEST = 3
#: How often each is chosen, of the sum.
WEIGHTS = {
    "create_unchecked": 8, "create_guarded": 8, "create_exclusive": 8, "create_existing": 6, "write": 6,
    "read": 6, "truncate": 2, "remove": 14, "remove_missing": 3, "rename": 12, "rename_over": 4,
    "rename_missing": 2, "rename_directory": 3, "mkdir": 6, "mkdir_existing": 2, "rmdir": 4, "rmdir_full": 2,
    "rmdir_file": 1, "rmdir_missing": 1, "symlink": 5, "symlink_existing": 1, "readlink": 3, "link": 6,
    "link_existing": 2, "mkfifo": 1, "lookup": 6, "lookup_missing": 3, "getattr": 5,
}
#: With more names than this, a worker rather removes: the end, when all is listed, is to take seconds.
FULL = 250
WHEN_FULL = {**WEIGHTS, "remove": 90, "rmdir": 25}


class Node:
    """Something in a directory; a file may be there under several names."""
    __slots__ = ("kind", "handle", "fileid", "content", "children", "names", "depth")

    def __init__(self, kind, handle, fileid, depth=0):
        self.kind, self.handle, self.fileid, self.depth = kind, handle, fileid, depth
        # Octets of a file, target of a symbolic link; None when that is not known.
        self.content = b"" if kind == REGULAR else None
        self.children = {}
        self.names = 0


class Surprise(Exception):
    """A result that cannot be; the names of the operation are to be looked at again."""


class Operations:
    """What a worker can do: generators; None when there is nothing to do it with."""

    def create_unchecked(self):
        place = self.free()
        return place and self.made(
            "create-unchecked", REGULAR, place,
            self.client.create(place[0].handle, place[1], UNCHECKED))

    def create_guarded(self):
        place = self.free()
        return place and self.made(
            "create-guarded", REGULAR, place, self.client.create(place[0].handle, place[1], GUARDED))

    def create_exclusive(self):
        place = self.free()
        return place and self.exclusively(place)

    def exclusively(self, place):
        directory, name = place
        verifier = self.random.randbytes(8)
        node = yield from self.made(
            "create-exclusive", REGULAR, place,
            self.client.create(directory.handle, name, EXCLUSIVE, verifier))
        chance = self.random.random()
        if chance < 0.3:
            # As one that has lost the reply: the same verifier means the same call.
            handle, _ = yield from self.call(
                "create-exclusive-again", [place],
                self.client.create(directory.handle, name, EXCLUSIVE, verifier), OK)
            self.same("CREATE again", node, handle)
        elif chance < 0.5:
            yield from self.call(
                "create-exclusive-other", [place],
                self.client.create(directory.handle, name, EXCLUSIVE, self.random.randbytes(8)), EXIST)
        # What clients do next: the times were the verifier.
        yield from self.call(
            "setattr", [place], self.client.setattr(node.handle, mode=0o644), OK)

    def create_existing(self):
        found = self.present(REGULAR)
        return found and self.over_existing(*found)

    def over_existing(self, directory, name, node):
        if self.random.random() < 0.5:
            return (yield from self.call(
                "create-guarded-existing", [(directory, name)],
                self.client.create(directory.handle, name, GUARDED), EXIST))
        handle, _ = yield from self.call(
            "create-unchecked-existing", [(directory, name)],
            self.client.create(directory.handle, name, UNCHECKED, size=0), OK)
        self.same("CREATE of what is there", node, handle)
        node.content = b""

    def write(self):
        found = self.present(REGULAR)
        return found and self.write_token(*found)

    def write_token(self, directory, name, node):
        self.serial += 1
        token = f"{self.load.options.seed} {self.index} {self.serial}".encode().ljust(TOKEN, b".")
        # Whether a write that has no answer was done is not known.
        node.content = None
        done = yield from self.call(
            "write", [(directory, name)], self.client.write(node.handle, 0, token), OK)
        if done.count != TOKEN:
            self.wrong("short", f"WRITE of {TOKEN} octets: {done.count}")
        node.content = token

    def read(self):
        found = self.present(REGULAR)
        return found and self.read_token(*found)

    def read_token(self, directory, name, node):
        got = yield from self.call(
            "read", [(directory, name)], self.client.read(node.handle, 0, 4096), OK)
        if node.content is not None and got.data != node.content:
            found, node.content = node.content, None
            self.wrong("wrong-content", f"{name!r} holds {got.data[:80]!r}, not {found!r}")

    def truncate(self):
        found = self.present(REGULAR)
        return found and self.cut(*found)

    def cut(self, directory, name, node):
        node.content = None
        yield from self.call("setattr-size", [(directory, name)], self.client.setattr(node.handle, size=0), OK)
        node.content = b""

    def remove(self):
        found = self.present(REGULAR, LINK, FIFO)
        return found and self.gone("remove", found, self.client.remove(found[0].handle, found[1]))

    def gone(self, operation, found, generator):
        directory, name, _ = found
        yield from self.call(operation, [(directory, name)], generator, OK)
        self.drop(directory, name)

    def remove_missing(self):
        place = self.free()
        return place and self.call(
            "remove-missing", [place], self.client.remove(place[0].handle, place[1]), NOENT)

    def rename(self):
        found, place = self.present(REGULAR, LINK, FIFO), self.free()
        return found and place and self.move("rename", found, place)

    def rename_over(self):
        found, target = self.present(REGULAR, LINK), self.present(REGULAR, LINK)
        # Two names of one file: nothing is to happen, and both stay.
        if not found or not target or found[2] is target[2]:
            return None
        return self.move("rename-over", found, target[:2])

    def rename_directory(self):
        """Beside where it is: a directory that is moved below itself is another matter."""
        found, name = self.present(DIRECTORY), self.word()
        if not found or name in found[0].children:
            return None
        return self.move("rename-directory", found, (found[0], name))

    def move(self, operation, found, place):
        directory, name, node = found
        yield from self.call(
            operation, [(directory, name), place],
            self.client.rename(directory.handle, name, place[0].handle, place[1]), OK)
        if place[1] in place[0].children:
            self.drop(*place)
        self.drop(directory, name)
        self.put(*place, node)

    def rename_missing(self):
        place, other = self.free(), self.free()
        if not place or not other:
            return None
        return self.call(
            "rename-missing", [place, other],
            self.client.rename(place[0].handle, place[1], other[0].handle, other[1]), NOENT)

    def mkdir(self):
        place = self.free()
        if not place or place[0].depth >= DEEPEST:
            return None
        return self.made("mkdir", DIRECTORY, place, self.client.mkdir(place[0].handle, place[1]))

    def mkdir_existing(self):
        found = self.present()
        return found and self.call(
            "mkdir-existing", [found[:2]], self.client.mkdir(found[0].handle, found[1]), EXIST)

    def rmdir(self):
        found = self.present(DIRECTORY)
        if not found or found[2].children:
            return None
        return self.gone("rmdir", found, self.client.rmdir(found[0].handle, found[1]))

    def rmdir_full(self):
        found = self.present(DIRECTORY)
        if not found or not found[2].children:
            return None
        return self.call(
            "rmdir-full", [found[:2]], self.client.rmdir(found[0].handle, found[1]), NOTEMPTY)

    def rmdir_file(self):
        found = self.present(REGULAR)
        return found and self.call(
            "rmdir-file", [found[:2]], self.client.rmdir(found[0].handle, found[1]), NOTDIR)

    def rmdir_missing(self):
        place = self.free()
        return place and self.call(
            "rmdir-missing", [place], self.client.rmdir(place[0].handle, place[1]), NOENT)

    def symlink(self):
        place = self.free()
        return place and self.make_symlink(place)

    def make_symlink(self, place):
        self.serial += 1
        target = f"to/{self.index}/{self.serial}" + "/x" * self.random.randrange(60)
        node = yield from self.made(
            "symlink", LINK, place, self.client.symlink(place[0].handle, place[1], target))
        node.content = target

    def symlink_existing(self):
        found = self.present()
        return found and self.call(
            "symlink-existing", [found[:2]],
            self.client.symlink(found[0].handle, found[1], "nowhere"), EXIST)

    def readlink(self):
        found = self.present(LINK)
        return found and self.follow(*found)

    def follow(self, directory, name, node):
        target = yield from self.call(
            "readlink", [(directory, name)], self.client.readlink(node.handle), OK)
        if node.content is not None and target != node.content:
            self.wrong("wrong-content", f"{name!r} leads to {target!r}, not {node.content!r}")

    def link(self):
        found, place = self.present(REGULAR), self.free()
        return found and place and self.make_link(found[2], place)

    def make_link(self, node, place):
        attributes = yield from self.call(
            "link", [place], self.client.link(node.handle, *self.target(place)), OK)
        self.put(*place, node)
        if attributes and (attributes.fileid, attributes.nlink) != (node.fileid, node.names):
            self.wrong("links", f"LINK {place[1]!r}: file {attributes.fileid} with {attributes.nlink} links, "
                                f"not {node.fileid} with {node.names}")

    @staticmethod
    def target(place):
        return place[0].handle, place[1]

    def link_existing(self):
        found, other = self.present(REGULAR), self.present()
        return found and other and self.call(
            "link-existing", [other[:2]], self.client.link(found[2].handle, *self.target(other)), EXIST)

    def mkfifo(self):
        place = self.free()
        return place and self.made("mkfifo", FIFO, place, self.client.mkfifo(*self.target(place)))

    def lookup(self):
        found = self.present()
        return found and self.look(*found)

    def look(self, directory, name, node):
        handle, attributes = yield from self.call(
            "lookup", [(directory, name)], self.client.lookup(directory.handle, name), OK)
        self.same(f"LOOKUP {name!r}", node, handle)
        self.attributes(name, node, attributes)

    def lookup_missing(self):
        place = self.free()
        return place and self.call(
            "lookup-missing", [place], self.client.lookup(*self.target(place)), NOENT)

    def getattr(self):
        found = self.present()
        return found and self.ask(*found)

    def ask(self, directory, name, node):
        attributes = yield from self.call(
            "getattr", [(directory, name)], self.client.getattr(node.handle), OK)
        self.attributes(name, node, attributes)

    def attributes(self, name, node, attributes):
        if attributes is None:
            return
        if (attributes.type, attributes.fileid) != (node.kind, node.fileid):
            self.wrong("identity", f"{name!r}: type {attributes.type} file {attributes.fileid}, "
                                   f"not {node.kind} {node.fileid}")
        if node.kind == REGULAR and attributes.nlink != node.names:
            self.wrong("links", f"{name!r} has {attributes.nlink} links, not {node.names}")
        if node.kind == REGULAR and node.content is not None and attributes.size != len(node.content):
            self.wrong("size", f"{name!r} has {attributes.size} octets, not {len(node.content)}")

