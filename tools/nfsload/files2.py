"""Files of exports under handles of NFS version 2, and the numbers that stand in the handles.

A file is known by a number that its export gives it: the root has 1, what comes first 2, and so on. Boxes whose
exports have one identifier give equal handles for what they have met in the same order: they collide. What has which
number is kept in a file beside the directory, so that handles mean the same after a restart.
"""
import os
import stat
import struct
import zlib

HANDLE = struct.Struct(">4sII20x")
MAGIC = b"NFS2"
ROOT = 1
#: RFC 1094 section 2.3.1, by the names of this system.
STATUS = {
    "EPERM": 1, "ENOENT": 2, "EIO": 5, "ENXIO": 6, "EACCES": 13, "EEXIST": 17, "EXDEV": 18, "ENODEV": 19,
    "ENOTDIR": 20, "EISDIR": 21, "EFBIG": 27, "ENOSPC": 28, "EROFS": 30, "ENAMETOOLONG": 63,
    "ENOTEMPTY": 66, "EDQUOT": 69, "ESTALE": 70,
}
#: RFC 1094 section 2.3.2: NFREG, NFDIR, NFBLK, NFCHR, NFLNK; 0 is NFNON.
TYPES = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFBLK: 3, stat.S_IFCHR: 4, stat.S_IFLNK: 5,
}
ATTRIBUTES = struct.Struct(">17I")
NAME_MOST = 255


class Refused(Exception):
    """A status other than NFS_OK."""

    def __init__(self, name):
        super().__init__(name)
        self.status = STATUS[name]


class Export:
    """A directory that clients mount as `path`."""

    def __init__(self, identifier, path, directory):
        self.identifier, self.path = identifier, path
        self.directory = os.fsencode(os.path.abspath(directory))
        os.makedirs(self.directory, exist_ok=True)
        # By number: the inode, and where the file was seen, as (number of the directory, name).
        self.inodes, self.places = {}, {}
        self.numbers = {}
        self.last = ROOT
        self.load()

    # Numbers

    def load(self):
        """Reads what has which number, and looks where it is now."""
        table = self.directory + b".numbers"
        self.enter(ROOT, os.lstat(self.directory).st_ino)
        if os.path.exists(table):
            with open(table) as file:
                for line in file:
                    words = line.split()
                    # The last line of a server that was killed may be cut.
                    if len(words) == 2 and line.endswith("\n"):
                        self.last = max(self.last, int(words[0]))
                        self.leave(self.numbers.get(int(words[1])))
                        self.enter(int(words[0]), int(words[1]))
        self.table = open(table, "a", buffering=1)
        pending = [ROOT]
        while pending:
            directory = pending.pop()
            for entry in os.scandir(self.file(directory)):
                if entry.inode() in self.numbers:
                    number = self.numbers[entry.inode()]
                    self.places[number].append((directory, entry.name))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(number)
        for number in [number for number, places in self.places.items() if not places and number != ROOT]:
            self.leave(number)

    def enter(self, number, inode):
        self.inodes[number], self.places[number], self.numbers[inode] = inode, [], number

    def leave(self, number):
        """The file is gone, and its number means nothing any more."""
        if number in self.inodes:
            inode = self.inodes.pop(number)
            del self.places[number]
            if self.numbers.get(inode) == number:
                del self.numbers[inode]

    def number(self, directory, name):
        """Of a name in a directory, given when it is seen first; and what is known of the file."""
        found = os.lstat(os.path.join(self.file(directory), name))
        number = self.numbers.get(found.st_ino)
        if number is None:
            self.last += 1
            number = self.last
            self.enter(number, found.st_ino)
            self.table.write(f"{number} {found.st_ino}\n")
        if (directory, name) not in self.places[number]:
            self.places[number].append((directory, name))
        return number, found

    def file(self, number):
        """Where a file is. A place where there is another one by now is forgotten."""
        if number == ROOT:
            return self.directory
        for directory, name in list(self.places.get(number, [])):
            try:
                path = os.path.join(self.file(directory), name)
                if os.lstat(path).st_ino == self.inodes[number]:
                    return path
            except FileNotFoundError:
                pass
            self.places[number].remove((directory, name))
        self.leave(number)
        raise Refused("ESTALE")

    def parent(self, number):
        """Of a directory; that of the root is itself."""
        self.file(number)
        return ROOT if number == ROOT else self.places[number][0][0]

    def removed(self, directory, name, found):
        """A name is gone; its file too, when it was the last one."""
        number = self.numbers.get(found.st_ino)
        if number is None:
            return
        if (directory, name) in self.places[number]:
            self.places[number].remove((directory, name))
        if stat.S_ISDIR(found.st_mode) or found.st_nlink < 2:
            self.leave(number)

    # What replies hold

    def handle(self, number):
        return HANDLE.pack(MAGIC, self.identifier, number)

    def attributes(self, number, found):
        """fattr, RFC 1094 section 2.3.5."""

        def word(value):
            return min(value, 0xFFFFFFFF)

        times = [part for time in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
                 for part in (word(time // 10**9), time % 10**9 // 1000)]
        return ATTRIBUTES.pack(
            TYPES.get(stat.S_IFMT(found.st_mode), 0), found.st_mode, found.st_nlink, word(found.st_uid),
            word(found.st_gid), word(found.st_size), 4096, word(found.st_rdev), word(found.st_blocks),
            self.identifier, number, *times)

    def entries(self, directory):
        """Pairs of cookie and name: `.`, `..`, then by cookies, which follow from names alone."""
        path = self.file(directory)
        found, last = [(1, b"."), (2, b"..")], 2
        for cookie, name in sorted((zlib.crc32(name), name) for name in os.listdir(path)):
            last = max(last + 1, cookie)
            found.append((last, name))
        return found


class Files:
    """The exports of a server."""

    def __init__(self, exports):
        self.exports = exports
        self.by_identifier = {export.identifier: export for export in exports}

    def find(self, handle):
        """Export and number; the file is there."""
        magic, identifier, number = HANDLE.unpack(handle)
        export = self.by_identifier.get(identifier)
        if magic != MAGIC or export is None or any(handle[12:]):
            raise Refused("ESTALE")
        export.file(number)
        return export, number

    def mounted(self, path):
        """The handle of a directory by the path that clients name."""
        wanted = [part for part in path.split(b"/") if part]
        for export in self.exports:
            own = [os.fsencode(part) for part in export.path.split("/") if part]
            if wanted[:len(own)] != own:
                continue
            number = ROOT
            for name in wanted[len(own):]:
                if name in (b".", b".."):
                    raise Refused("EACCES")
                number, found = export.number(number, name)
                if not stat.S_ISDIR(found.st_mode):
                    raise Refused("ENOTDIR")
            return export.handle(number)
        raise Refused("EACCES")
