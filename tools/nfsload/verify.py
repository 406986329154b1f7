"""Reads and writes of stamped blocks: a read must bring the newest acknowledged write of each block."""
import array
import random
import time

from .load import FAULTS, Load, SetupError, kind_of
from .nfs import FILE_SYNC, OK, UNCHECKED, UNSTABLE, NFSError, status_name
from .pattern import BLOCK, Pattern
from .rpc import Sleep

COMMIT_AFTER = 32


class Request:
    """What a slot does: blocks of the flow's file."""
    __slots__ = ("is_read", "first", "count")

    def __init__(self, is_read, first, count):
        self.is_read, self.first, self.count = is_read, first, count


class Flow:
    """A UDP flow or a TCP connection with a file of its own, and what is known of the file's blocks."""

    def __init__(self, load, index, export, number, rate, path=None):
        self.load, self.index, self.export, self.number, self.rate = load, index, export, number, rate
        # Of a file that is there.
        self.path = path
        self.options, self.results = load.options, load.results
        self.random = random.Random(f"{self.options.seed} {index}")
        self.name = f"nfs-load-{self.options.seed}-{index}"
        self.place = f"{export} flow {index}"
        self.size = self.options.range_mib * (1 << 20) // BLOCK
        self.acknowledged = array.array("Q", bytes(8 * self.size))
        self.busy = bytearray(self.size)
        self.possible = {}
        self.generation = 0
        self.cursor = 0
        self.phase = "new"
        self.running = 0
        self.requests = 0
        self.client = None
        self.handle = self.identity = None
        # Verifier of the last write of each block that is not known to be on disk.
        self.uncommitted = {}
        self.verifier = None
        self.since_commit = 0
        self.rewrite = set()
        self.rewritten = self.verifier_changes = self.commits = 0
        self.due = 0.0

    # Life

    def start(self):
        """Makes the file and fills it."""
        self.client = self.load.client()
        yield from (self.find() if self.path else self.make())
        status, attributes = yield from self.client.getattr(self.handle)
        if status != OK:
            raise NFSError("GETATTR", status)
        self.identity = attributes.fsid, attributes.fileid
        self.run("fill")

    def make(self):
        root = self.load.roots[self.export]
        status, made = yield from self.client.create(root, self.name, UNCHECKED, size=0)
        if status != OK:
            raise NFSError(f"CREATE {self.name}", status)
        self.handle = made[0]
        if self.handle is None:
            self.path = self.name
            yield from self.find()
            self.path = None

    def find(self):
        handle = self.load.roots[self.export]
        for name in self.path.split("/"):
            status, found = yield from self.client.lookup(handle, name)
            if status != OK:
                raise NFSError(f"LOOKUP {self.path}", status)
            handle = found[0]
        status, _ = yield from self.client.setattr(handle, size=0)
        if status != OK:
            raise NFSError(f"SETATTR {self.path}", status)
        self.handle = handle

    def begin(self):
        self.spawn(self.start())

    def run(self, phase):
        """Lets all slots do what the phase asks for."""
        self.phase, self.cursor = phase, 0
        for _ in range(self.options.depth):
            self.spawn(self.slot())

    def stray(self):
        """Now and then something that is not about the flow's file, over its connection: the root of another export,
        a name, a listing."""
        exports = self.options.export
        other = self.load.roots[exports[(self.number + 1) % len(exports)]]
        own = self.load.roots[self.export]
        while self.phase == "run" and not self.load.is_over:
            yield Sleep(self.options.stray * (0.5 + self.random.random()))
            for what, call in (
                    ("GETATTR", self.client.getattr(other)), ("LOOKUP", self.client.lookup(own, self.name)),
                    ("READDIR", self.client.readdir(own))):
                status = (yield from call)[0]
                if status != OK:
                    self.results.error("status", self.place, f"{what} beside: {status_name(status)}")
                self.load.strays += 1

    def spawn(self, generator):
        self.running += 1
        self.load.engine.spawn(self.caught(generator))

    def caught(self, generator):
        try:
            yield from generator
        except FAULTS as error:
            self.fail(kind_of(error), str(error))
        finally:
            self.running -= 1

    def fail(self, kind, text):
        """The flow is over."""
        if self.phase != "failed":
            # A closed connection is told of by itself.
            if kind != "closed":
                self.results.error(kind, self.place, text)
            self.phase = "failed"

    @property
    def is_filled(self):
        return self.phase == "failed" or self.phase == "fill" and not self.running

    # Requests

    def slot(self):
        phase = self.phase
        while self.phase == phase:
            if phase == "run":
                if self.load.is_over:
                    return
                if self.since_commit >= COMMIT_AFTER:
                    yield from self.commit()
                    continue
                if self.rate and not self.rewrite:
                    now = time.monotonic()
                    if self.due > now:
                        yield Sleep(min(self.due - now, 0.1))
                        continue
                    # What could not be sent in time is not made up for by a burst.
                    self.due = max(self.due + self.random.expovariate(self.rate), now - 0.1)
            request = self.pick(phase)
            if request is None:
                if phase != "run":
                    return
                yield Sleep(0.002)
                continue
            first, end = request.first, request.first + request.count
            self.busy[first:end] = b"\1" * request.count
            try:
                yield from (self.read(request) if request.is_read else self.write(request))
            finally:
                self.busy[first:end] = bytes(request.count)

    def pick(self, phase):
        """What is to be done next; None when nothing is."""
        if phase != "run":
            if self.cursor >= self.size:
                return None
            first = self.cursor
            count = min(self.load.sizes[-1], self.size - first)
            self.cursor += count
            return Request(phase == "check", first, count)
        if self.rewrite:
            return self.pick_rewrite()
        chance = self.random.random
        is_read = chance() < self.options.read_share
        for _ in range(8):
            count = min(self.load.sizes[int(chance() * len(self.load.sizes))], self.size)
            first = int(chance() * (self.size - count + 1))
            if self.busy.find(1, first, first + count) < 0:
                return Request(is_read, first, count)
        return None

    def pick_rewrite(self):
        """Blocks whose unstable write a restarted server may have lost."""
        for first in self.rewrite:
            end = first
            while end in self.rewrite and not self.busy[end] and end - first < self.load.sizes[-1]:
                end += 1
            if end > first:
                self.rewrite.difference_update(range(first, end))
                self.rewritten += end - first
                return Request(False, first, end - first)
        return None

    def label(self, what):
        return (self.export, what) if self.phase == "run" else None

    def read(self, request):
        first, count = request.first, request.count
        length = count * BLOCK
        started = time.monotonic()
        try:
            status, got = yield from self.client.read(
                self.handle, first * BLOCK, length, self.label("read"))
        except FAULTS as error:
            return self.lost(request, error, started)
        self.count(request)
        if status != OK:
            return self.results.error("status", self.place, f"READ at {first}: {status_name(status)}")
        self.check_identity("READ", got.attributes)
        if len(got.data) != length:
            return self.results.error(
                "short", self.place, f"READ of {length} octets at block {first}: {len(got.data)}")
        if got.is_end != (first + count == self.size):
            self.results.error("end", self.place, f"READ at block {first}: end of file is {got.is_end}")
        self.check(got.data, first, count)

    def write(self, request):
        first, count = request.first, request.count
        self.generation += 1
        generation = self.generation
        data = self.load.pattern.data(self.number, self.index, first, [generation] * count)
        stable = FILE_SYNC if self.random.random() < self.options.stable_share else UNSTABLE
        started = time.monotonic()
        try:
            status, done = yield from self.client.write(
                self.handle, first * BLOCK, data, stable, self.label("write"))
        except FAULTS as error:
            self.maybe(first, count, generation)
            return self.lost(request, error, started)
        self.count(request)
        if status != OK or done.count != len(data):
            self.maybe(first, count, generation)
            text = status_name(status) if status != OK else f"{done.count} of {len(data)} octets"
            return self.results.error(
                "status" if status != OK else "short", self.place, f"WRITE at block {first}: {text}")
        self.check_identity("WRITE", done.attributes)
        self.acknowledged[first:first + count] = array.array("Q", [generation]) * count
        self.look_at(done.verifier)
        self.since_commit += 1
        for block in range(first, first + count):
            self.possible.pop(block, None)
            if done.committed == UNSTABLE:
                self.uncommitted[block] = done.verifier
            else:
                self.uncommitted.pop(block, None)

    def commit(self):
        self.since_commit = 0
        before = [(block, self.acknowledged[block], verifier)
                  for block, verifier in self.uncommitted.items()]
        try:
            status, verifier = yield from self.client.commit(self.handle)
        except FAULTS as error:
            if kind_of(error) != "closed":
                self.results.error(kind_of(error), self.place, f"COMMIT: {error}")
            if self.client.channel.is_closed:
                self.fail("closed", str(error))
            return
        self.commits += 1
        if status != OK:
            return self.results.error("status", self.place, f"COMMIT: {status_name(status)}")
        self.look_at(verifier)
        for block, generation, then in before:
            if self.acknowledged[block] != generation or block not in self.uncommitted:
                continue
            if then == verifier:
                del self.uncommitted[block]
            else:
                self.rewrite.add(block)

    def look_at(self, verifier):
        if self.verifier not in (None, verifier):
            self.verifier_changes += 1
        self.verifier = verifier

    def count(self, request):
        self.requests += 1
        if self.phase == "run":
            octets = request.count * BLOCK
            if request.is_read:
                self.load.reads += 1
                self.load.octets_read += octets
            else:
                self.load.writes += 1
                self.load.octets_written += octets

    def lost(self, request, error, started):
        """A request without an answer; a write may have reached the disk, or not."""
        what = "READ" if request.is_read else "WRITE"
        kind = kind_of(error)
        self.results.error(
            "lost" if kind == "closed" else kind, self.place,
            f"{what} of {request.count} blocks at {request.first}, sent at "
            f"{self.results.at(started)}: {error}")
        if self.client.channel.is_closed:
            self.fail("closed", str(error))

    def maybe(self, first, count, generation):
        for block in range(first, first + count):
            self.possible.setdefault(block, set()).add(generation)

    # Checks

    def check_identity(self, what, attributes):
        """Attributes are of this file; only this flow changes its size, which it does not."""
        if attributes is None:
            return
        if (attributes.fsid, attributes.fileid) != self.identity:
            self.results.error(
                "identity", self.place, f"{what} tells of fsid {attributes.fsid:#x} file "
                f"{attributes.fileid}, not of {self.identity[0]:#x} {self.identity[1]}")
        elif attributes.size != self.size * BLOCK and self.phase != "fill":
            self.results.error(
                "size", self.place, f"{what} tells of {attributes.size} octets, not {self.size * BLOCK}")

    def check(self, data, first, count):
        expected = self.load.pattern.data(
            self.number, self.index, first, self.acknowledged[first:first + count])
        if data == expected:
            return
        for block in range(first, first + count):
            at = (block - first) * BLOCK
            content = data[at:at + BLOCK]
            if content == expected[at:at + BLOCK]:
                continue
            allowed = self.possible.get(block, set()) | {self.acknowledged[block]}
            wrong = self.load.pattern.explain(content, self.number, self.index, block, allowed)
            if wrong:
                self.load.wrong += 1
                self.results.error(f"wrong-{wrong[0]}", self.place, f"block {block}: {wrong[1]}")

    def remove(self):
        status, _ = yield from self.client.remove(self.load.roots[self.export], self.name)
        if status != OK:
            raise NFSError(f"REMOVE {self.name}", status)


class VerifyLoad(Load):
    def __init__(self, options):
        super().__init__(options)
        largest = options.largest or (1 << 20 if options.transport == "tcp" else 32 << 10)
        self.sizes = [1 << power for power in range(9)
                      if options.smallest <= BLOCK << power <= largest]
        if not self.sizes:
            raise SetupError("no request size between --smallest and --largest: 4096 * 2^n to 1048576")
        self.pattern = Pattern(options.seed)
        self.is_over = False
        self.reads = self.writes = self.octets_read = self.octets_written = self.wrong = 0
        self.strays = 0
        exports = options.export
        count = options.flows or len(exports)
        places = [index % len(exports) for index in range(count)]
        rates = [float(rate) for rate in str(options.rate or 0).split(",")]
        if options.use and max(places.count(place) for place in places) > len(options.use):
            raise SetupError("a flow needs a file of its own: there are more flows than --use")
        self.flows = [
            Flow(self, index, exports[place], place, rates[place % len(rates)] / places.count(place),
                 options.use[places[:index].count(place)] if options.use else None)
            for index, place in enumerate(places)]
        self.verified = None

    def run(self):
        self.prepare()
        for flow in self.flows:
            flow.begin()
        self.engine.run(
            lambda: self.is_ended or all(flow.is_filled for flow in self.flows),
            self.options.setup_seconds)
        for flow in self.flows:
            if not flow.is_filled:
                flow.fail("setup", f"not filled in {self.options.setup_seconds} s")
        good = [flow for flow in self.flows if flow.phase != "failed"]
        if not good:
            raise SetupError("no flow could begin")
        self.results.start()
        for flow in good:
            flow.due = self.results.begin
            flow.run("run")
            if self.options.stray:
                flow.spawn(flow.stray())
        print("running", file=self.options.stderr, flush=True)
        self.run_for(self.options.seconds, lambda: all(flow.phase == "failed" for flow in good))
        self.is_over = True
        self.drain(good)
        self.results.stop()
        if self.options.final_verify:
            self.final_verify()
        if not self.options.keep:
            for flow in self.flows:
                if flow.phase == "checked" and not flow.path:
                    flow.spawn(flow.remove())
            self.engine.run(lambda: not any(flow.running for flow in self.flows), 30)

    def drain(self, flows):
        if self.engine.run(
                lambda: not any(flow.running for flow in flows), self.options.drain_seconds):
            for flow in flows:
                if flow.phase == "run":
                    flow.phase = "checked"
            return
        for flow in flows:
            for call in list(flow.client.channel.calls.values()):
                self.results.observe(call, time.monotonic())
                self.results.error(
                    "unanswered", flow.place,
                    f"a call sent at {self.results.at(call.started)} has no answer after "
                    f"{self.options.drain_seconds} s")
            if flow.running:
                flow.phase = "failed"

    def final_verify(self):
        """All that was written is read back; over new flows where the old ones have ended."""
        wrong, unread, checked = self.wrong, 0, 0
        reading = []
        for flow in self.flows:
            if flow.handle is None:
                continue
            if flow.running or flow.phase == "failed" and not self.come_back(flow):
                unread += flow.size
                continue
            flow.run("check")
            reading.append(flow)
        self.engine.run(lambda: not any(flow.running for flow in reading), 120)
        for flow in reading:
            if flow.phase == "check" and not flow.running:
                checked += flow.size
                flow.phase = "checked"
            else:
                unread += flow.size
        self.verified = {"blocks": checked, "unread": unread, "wrong": self.wrong - wrong}
        if unread:
            self.results.error("unverified", "all flows", f"{unread} blocks were not read back")

    def come_back(self, flow):
        """A new connection for a flow whose own has ended; its server may need a while."""
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            flow.client = self.client()
            try:
                self.engine.complete(flow.client.null(), 2)
                return True
            except FAULTS:
                flow.client.channel.close()
                time.sleep(0.1)
        return False

    def report(self):
        report = self.results.report({
            "reads": self.reads, "writes": self.writes, "bytes_read": self.octets_read,
            "bytes_written": self.octets_written, "strays": self.strays, "wrong_blocks": self.wrong,
            "final_verify": self.verified,
            "verifier_changes": sum(flow.verifier_changes for flow in self.flows),
            "rewritten_blocks": sum(flow.rewritten for flow in self.flows),
            "flows": [{
                "flow": flow.index, "export": flow.export, "file": flow.path or flow.name, "state": flow.phase,
                "requests": flow.requests, "commits": flow.commits,
                "handle": flow.handle.hex() if flow.handle else None} for flow in self.flows],
        })
        report["ok"] = report["ok"] and report["requests"] > 0
        return report
