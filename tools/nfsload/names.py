"""Operations that must happen exactly once: each worker has a directory of its own and knows every result.

A server that does a retransmitted call again, or a switch that loses or doubles one, is found by a status that cannot
be (EXIST after the first CREATE, NOENT after the first REMOVE), or by what the directories hold.
"""
import json
import random
import time

from .load import FAULTS, Load, SetupError, kind_of
from .nfs import DIRECTORY, LINK, NOENT, OK, REGULAR, NFSError, status_name
from .operations import FULL, WEIGHTS, WHEN_FULL, Node, Operations, Surprise
from .rpc import Sleep

NAMES = 48


class Worker(Operations):
    def __init__(self, load, index, export, client):
        self.load, self.index, self.export, self.client = load, index, export, client
        self.random = random.Random(f"{load.options.seed} {index}")
        self.name = f"nfs-load-{load.options.seed}-w{index}"
        self.place = f"{export} worker {index}"
        self.top = None
        self.serial = 0
        self.is_running = True
        self.is_lost = False
        self.due = 0.0
        self.count = 0

    # Life

    def run(self):
        try:
            yield from self.begin()
            self.load.ready += 1
            while not self.load.is_running and not self.load.is_ended:
                yield Sleep(0.01)
            self.due = time.monotonic()
            while self.load.is_running and not self.is_lost:
                yield from self.pause()
                if self.load.is_running and self.load.take():
                    yield from self.once()
            if not self.is_lost:
                yield from self.verify(self.top, self.name)
                if not self.load.options.keep:
                    yield from self.clear(self.top.handle)
                    root = self.load.roots[self.export]
                    yield from self.removed("rmdir", self.client.rmdir(root, self.name))
        except FAULTS as error:
            if kind_of(error) != "closed":
                self.load.results.error(kind_of(error), self.place, str(error))
            self.is_lost = True
        except Surprise:
            self.is_lost = True
        finally:
            self.is_running = False

    def begin(self):
        root = self.load.roots[self.export]
        status, old = yield from self.client.lookup(root, self.name)
        if status == OK:
            # Of an earlier load that was ended.
            yield from self.clear(old[0])
            yield from self.client.rmdir(root, self.name)
        status, made = yield from self.client.mkdir(root, self.name)
        if status != OK:
            raise NFSError(f"MKDIR {self.name}", status)
        self.top = yield from self.node(DIRECTORY, root, self.name, made, 0)
        self.top.names = 1

    def pause(self):
        rate = self.load.rate
        if not rate:
            return
        now = time.monotonic()
        if self.due > now:
            yield Sleep(self.due - now)
        self.due = max(self.due + self.random.expovariate(rate), now - 0.1)

    def once(self):
        """One operation, and the look at its names when it did not end as it must."""
        self.touched = []
        while True:
            weights = WHEN_FULL if self.count > FULL else WEIGHTS
            operation = self.random.choices([*weights], [*weights.values()])[0]
            step = getattr(self, operation)()
            if step is not None:
                break
        try:
            yield from step
            return
        except Surprise:
            pass
        except FAULTS as error:
            if kind_of(error) != "closed":
                self.load.results.error(kind_of(error), self.place, f"{operation}: {error}")
            if self.client.channel.is_closed:
                self.is_lost = True
                return
        for directory, name in self.touched:
            yield from self.look_again(directory, name)

    def look_again(self, directory, name):
        """Takes over what is there, so that one fault is not told many times."""
        status, found = yield from self.client.lookup(directory.handle, name)
        old = directory.children.get(name)
        if status == NOENT:
            if old:
                self.drop(directory, name)
            return
        if status != OK:
            raise NFSError(f"LOOKUP {name}", status)
        handle, attributes = found
        if old and old.handle == handle:
            return
        if old:
            self.drop(directory, name)
        known = next((node for node in self.nodes(self.top) if node.handle == handle), None)
        if known is None:
            known = Node(attributes.type, handle, attributes.fileid, directory.depth + 1)
            known.content = None
        self.put(directory, name, known)

    # The model

    def nodes(self, directory):
        for node in directory.children.values():
            yield node
            if node.kind == DIRECTORY:
                yield from self.nodes(node)

    def put(self, directory, name, node):
        directory.children[name] = node
        node.names += 1
        self.count += 1

    def drop(self, directory, name):
        node = directory.children.pop(name)
        node.names -= 1
        self.count -= 1
        return node

    def directory(self):
        """One by chance, often the worker's own."""
        place = self.top
        while True:
            below = [node for node in place.children.values() if node.kind == DIRECTORY]
            if not below or self.random.random() < 0.4:
                return place
            place = self.random.choice(below)

    def free(self):
        """A directory and a name that is not there."""
        directory = self.directory()
        for _ in range(4):
            name = self.word()
            if name not in directory.children:
                return directory, name
        return None

    def word(self):
        number = self.random.randrange(NAMES)
        # Names of all lengths, and not of ASCII alone.
        return f"n{number}" + {7: "-" + "long" * 50, 11: "-\u00fcml\u00e4ut", 13: " with spaces "}.get(number, "")

    def present(self, *kinds):
        """A directory, a name in it and what is there, of these kinds; None when there is none."""
        directory = self.directory()
        names = [name for name, node in directory.children.items() if not kinds or node.kind in kinds]
        if not names:
            return None
        name = self.random.choice(names)
        return directory, name, directory.children[name]

    # Calls and their results

    def call(self, operation, names, generator, expected):
        """A call that has exactly one right status."""
        self.touched = names
        begin = time.monotonic()
        text = " ".join(repr(name if len(name) < 40 else name[:37] + "...") for _, name in names)
        status = None
        try:
            status, value = yield from generator
        finally:
            self.load.note(self, operation, text, begin, status, expected)
        if status != expected:
            self.load.results.error(
                "status", self.place,
                f"{operation} {text}: {status_name(status)}, {status_name(expected)} was to come, "
                f"after {(time.monotonic() - begin) * 1000:.1f} ms")
            raise Surprise
        return value

    def wrong(self, kind, text):
        self.load.results.error(kind, self.place, text)
        raise Surprise

    def wanted(self, operation, generator):
        status, value = yield from generator
        if status != OK:
            self.load.results.error("status", self.place, f"{operation}: {status_name(status)}")
            raise Surprise
        return value

    def node(self, kind, directory, name, made, depth):
        """What a call has made; asks for what the reply may leave out."""
        handle, attributes = made
        if handle is None or attributes is None:
            handle, attributes = yield from self.wanted("lookup", self.client.lookup(directory, name))
        if attributes is None:
            attributes = yield from self.wanted("getattr", self.client.getattr(handle))
        if attributes.type != kind:
            self.wrong("type", f"{name!r} is of type {attributes.type}, not {kind}")
        return Node(kind, handle, attributes.fileid, depth)

    def made(self, operation, kind, place, generator):
        directory, name = place
        value = yield from self.call(operation, [place], generator, OK)
        node = yield from self.node(kind, directory.handle, name, value, directory.depth + 1)
        self.put(directory, name, node)
        return node

    def same(self, operation, node, handle):
        if handle is not None and handle != node.handle:
            self.wrong("handle", f"{operation}: {handle.hex()}, not {node.handle.hex()}")

    # The end

    def verify(self, directory, path):
        """What READDIR and READDIRPLUS list is what the model has; files hold what was written."""
        error = self.load.results.error
        for plus in (False, True):
            word = "READDIRPLUS" if plus else "READDIR"
            found = yield from self.client.listing(
                directory.handle, self.random.choice([1024, 4096, 8192]), plus)
            for name in sorted({*found} - {*directory.children}):
                error("listing", self.place, f"{word} of {path}: {name!r} must not be there")
            for name in sorted({*directory.children} - {*found}):
                error("listing", self.place, f"{word} of {path}: {name!r} is missing")
            for name in {*found} & {*directory.children}:
                self.load.listed += 1
                self.compare(word, path, found[name], directory.children[name])
        for name, node in directory.children.items():
            try:
                if node.kind == DIRECTORY:
                    yield from self.verify(node, f"{path}/{name}")
                elif node.kind == REGULAR:
                    yield from self.read_token(directory, name, node)
                elif node.kind == LINK:
                    yield from self.follow(directory, name, node)
            except Surprise:
                pass

    def compare(self, word, path, entry, node):
        error = self.load.results.error
        if entry.fileid != node.fileid:
            error("listing", self.place,
                  f"{word} of {path}: {entry.name!r} is file {entry.fileid}, not {node.fileid}")
        if entry.handle is not None and entry.handle != node.handle:
            error("handle", self.place, f"{word} of {path}: {entry.name!r} has handle "
                                        f"{entry.handle.hex()}, not {node.handle.hex()}")
        if entry.attributes:
            try:
                self.attributes(entry.name, node, entry.attributes)
            except Surprise:
                pass

    def clear(self, handle):
        found = yield from self.client.listing(handle, plus=True)
        for name, entry in found.items():
            below, attributes = entry.handle, entry.attributes
            if below is None or attributes is None:
                below, attributes = yield from self.wanted("lookup", self.client.lookup(handle, name))
            if attributes is None:
                attributes = yield from self.wanted("getattr", self.client.getattr(below))
            if attributes.type == DIRECTORY:
                yield from self.clear(below)
                yield from self.removed(f"rmdir {name!r}", self.client.rmdir(handle, name))
            else:
                yield from self.removed(f"remove {name!r}", self.client.remove(handle, name))

    def removed(self, operation, generator):
        """At the end there is no model to put right any more: it goes on."""
        try:
            yield from self.wanted(operation, generator)
        except Surprise:
            pass


class NamesLoad(Load):
    def __init__(self, options):
        super().__init__(options)
        self.ready = self.taken = self.listed = 0
        self.is_running = False
        self.rate = float(options.rate or 0) * len(options.export) / options.workers
        self.by_operation = {}
        self.history = open(options.history, "w") if options.history else None

    def take(self):
        """Whether there is an operation left to do."""
        if self.options.operations and self.taken >= self.options.operations:
            self.is_running = False
            return False
        self.taken += 1
        return True

    def note(self, worker, operation, text, begin, status, expected):
        now = time.monotonic()
        self.by_operation[operation] = self.by_operation.get(operation, 0) + 1
        if self.results.stopped is None:
            self.results.observe_as(worker.export, operation, begin, now)
        if self.history:
            print(json.dumps({
                "at": self.results.at(begin), "ms": round((now - begin) * 1000, 2),
                "worker": worker.index, "operation": operation, "names": text,
                "status": None if status is None else status_name(status),
                "expected": status_name(expected)}), file=self.history)

    def run(self):
        self.prepare()
        options = self.options
        count = options.flows or options.workers
        clients = [self.client() for _ in range(count)]
        exports = options.export
        self.workers = [
            Worker(self, index, exports[index % len(exports)], clients[index % count])
            for index in range(options.workers)]
        for worker in self.workers:
            self.engine.spawn(worker.run())
        self.engine.run(
            lambda: self.is_ended or self.ready == sum(w.is_running for w in self.workers),
            options.setup_seconds)
        if not self.ready:
            raise SetupError("no worker could begin")
        self.results.start()
        self.is_running = True
        print("running", file=options.stderr, flush=True)
        self.run_for(options.seconds, lambda: not self.is_running or not any(
            worker.is_running for worker in self.workers))
        self.is_running = False
        self.results.stop()
        if not self.engine.run(
                lambda: not any(worker.is_running for worker in self.workers),
                options.drain_seconds + 120):
            self.results.error("unverified", "all workers", "the end could not be looked at in time")
        for worker in self.workers:
            if worker.is_lost:
                self.results.error("unverified", worker.place, "its directory was not looked at")
        if self.history:
            self.history.close()

    def report(self):
        report = self.results.report({
            "operations": self.taken, "by_operation": dict(sorted(self.by_operation.items())),
            "listed": self.listed, "workers_lost": sum(worker.is_lost for worker in self.workers),
        })
        report["ok"] = report["ok"] and report["operations"] > 0
        return report
