"""The handles of what is in exports, and how files begin: equal handles with different contents collide."""
from .load import FAULTS, Load, kind_of
from .nfs import DIRECTORY, OK, REGULAR, NFSError

BEGINNING = 64
MOST = 2000


class HandlesLoad(Load):
    def run(self):
        self.prepare()
        self.found = {export: {} for export in self.options.export}
        self.nfs = self.client()
        for export in self.options.export:
            try:
                self.engine.complete(self.walk(export, "", self.roots[export]), self.options.seconds)
            except FAULTS as error:
                self.results.error(kind_of(error), export, str(error))

    def wanted(self, operation, generator):
        status, value = yield from generator
        if status != OK:
            raise NFSError(operation, status)
        return value

    def walk(self, export, path, directory):
        listing = yield from self.nfs.listing(directory, plus=True)
        for name in sorted(listing):
            place = f"{path}/{name}".lstrip("/")
            if len(self.found[export]) >= MOST:
                return
            handle, _ = yield from self.wanted(f"LOOKUP {place}", self.nfs.lookup(directory, name))
            attributes = yield from self.wanted(f"GETATTR {place}", self.nfs.getattr(handle))
            entry = {"handle": handle.hex(), "type": attributes.type, "fileid": attributes.fileid}
            self.found[export][place] = entry
            if attributes.type == REGULAR:
                got = yield from self.wanted(f"READ {place}", self.nfs.read(handle, 0, BEGINNING))
                entry["content"] = got.data.decode(errors="replace")
            elif attributes.type == DIRECTORY and name != "lost+found":
                yield from self.walk(export, place, handle)

    def report(self):
        return self.results.report({
            "roots": {export: handle.hex() for export, handle in self.roots.items()},
            "files": getattr(self, "found", {})})
