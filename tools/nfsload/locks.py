"""Locks of NFS 3 (NLM), by owners that must not get in each other's way: each kind of conflict once, or locks that
are held all the time while others try to get them."""
import struct
import time

from .load import FAULTS, Load, SetupError, kind_of
from .nfs import OK, PORTMAPPER, UNCHECKED, NFSError
from .nlm import (BLOCKED, DENIED, GRACE, GRANT, NLM, Callbacks, LockClient, Owner, Range,
                  status_name)
from .rpc import Call, CallFailed, Channel, Sleep

FIRST, FAR = Range(0, 100), Range(200, 0)


class Wrong(Exception):
    """Not what was to come."""


class LocksLoad(Load):
    def __init__(self, options):
        super().__init__(options)
        host = f"locks-{options.seed}"
        # The second host has the first one's number, the third owner the first one's host.
        self.one = Owner(f"{host}-a", 11, b"same")
        self.two = Owner(f"{host}-b", 11, b"same")
        self.three = Owner(f"{host}-a", 12, b"same")
        self.handles = {}
        self.steps = []
        self.grace = 0

    def run(self):
        self.prepare()
        try:
            anywhere = "::" if ":" in self.options.server else "0.0.0.0"
            self.callbacks = Callbacks(self.engine, self.options.source or anywhere)
            self.engine.complete(self.find(), self.options.setup_seconds)
            for export in self.options.export:
                self.handles[export] = self.engine.complete(
                    self.file(export), self.options.setup_seconds)
        except FAULTS as error:
            raise SetupError(f"{type(error).__name__}: {error}")
        self.results.start()
        print("running", file=self.options.stderr, flush=True)
        if self.options.hold:
            return self.hold()
        for export in self.options.export:
            for name in ("conflicts", "shared", "parts", "blocking", "cancelled", "unwanted", "message"):
                self.step(name, export)

    def find(self):
        channel = self.mounter.channel(111)
        protocol = 6 if self.options.transport == "tcp" else 17
        reader = yield Call(
            channel, PORTMAPPER, 2, 3, struct.pack(">IIII", NLM, 4, protocol, 0))
        port = reader.number()
        channel.close()
        if not port:
            raise CallFailed("portmapper", "NLM is not registered")
        self.nlm = LockClient(Channel(
            self.engine, self.options.server, port, self.options.transport, self.credential,
            self.settings))

    def file(self, export):
        nfs = self.client()
        name = f"nfs-load-{self.options.seed}-locks"
        status, _ = yield from nfs.create(self.roots[export], name, UNCHECKED)
        if status != OK:
            raise NFSError(f"CREATE {name}", status)
        status, found = yield from nfs.lookup(self.roots[export], name)
        nfs.channel.close()
        if status != OK:
            raise NFSError(f"LOOKUP {name}", status)
        return found[0]

    def step(self, name, export):
        if self.is_ended:
            return
        begin, error = time.monotonic(), None
        try:
            self.engine.complete(
                getattr(self, name)(self.handles[export]), max(60, self.options.seconds))
        except (*FAULTS, Wrong) as caught:
            error = str(caught)
            kind = "wrong" if isinstance(caught, Wrong) else kind_of(caught)
            self.results.error(kind, f"{export} {name}", error)
        self.steps.append({
            "step": name, "export": export, "ok": error is None, "error": error,
            "ms": round((time.monotonic() - begin) * 1000, 1)})

    # Helpers

    def again(self, call):
        """Answers of a server that starts do not count: the call is made again."""
        while True:
            status = yield from call()
            if status != GRACE:
                return status
            self.grace += 1
            yield Sleep(0.1)

    def lock(self, wanted, owner, handle, place, **how):
        status = yield from self.again(lambda: self.nlm.lock(owner, handle, place, **how))
        self.same(f"LOCK {place.offset}+{place.length} of {owner.host} {owner.svid}", status, wanted)

    def unlock(self, owner, handle, place):
        status = yield from self.again(lambda: self.nlm.unlock(owner, handle, place))
        self.same(f"UNLOCK of {owner.host} {owner.svid}", status, GRANT)

    @staticmethod
    def same(what, status, wanted):
        if status != wanted:
            raise Wrong(f"{what}: {status_name(status)} instead of {status_name(wanted)}")

    def until(self, what, condition, seconds=15):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise Wrong(f"{what} has not come in {seconds} s")
            yield Sleep(0.02)

    # Steps

    def conflicts(self, handle):
        yield from self.lock(GRANT, self.one, handle, FIRST, label=("locks", "lock"))
        yield from self.lock(GRANT, self.one, handle, FIRST)
        for other in (self.two, self.three):
            yield from self.lock(DENIED, other, handle, Range(99, 1))
            yield from self.lock(DENIED, other, handle, FIRST, exclusive=False)
            status, holder = yield from self.nlm.test(other, handle, FIRST)
            self.same("TEST", status, DENIED)
            found = (holder.exclusive, holder.svid, holder.owner, holder.offset, holder.length)
            wanted = (True, self.one.svid, self.one.owner, *FIRST)
            if found != wanted:
                raise Wrong(f"TEST: the holder is {found} instead of {wanted}")
            yield from self.lock(GRANT, other, handle, Range(100, 10))
            yield from self.unlock(other, handle, Range(100, 10))
        yield from self.unlock(self.one, handle, FIRST)
        status, _ = yield from self.nlm.test(self.two, handle, FIRST)
        self.same("TEST", status, GRANT)

    def shared(self, handle):
        for owner in (self.one, self.two, self.three):
            yield from self.lock(GRANT, owner, handle, FIRST, exclusive=False)
        yield from self.lock(DENIED, self.two, handle, FIRST)
        yield from self.unlock(self.one, handle, FIRST)
        yield from self.lock(DENIED, self.two, handle, FIRST)
        yield from self.unlock(self.three, handle, FIRST)
        yield from self.lock(GRANT, self.two, handle, FIRST)
        yield from self.unlock(self.two, handle, FIRST)

    def parts(self, handle):
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.unlock(self.one, handle, Range(40, 20))
        yield from self.lock(GRANT, self.two, handle, Range(40, 20))
        yield from self.lock(DENIED, self.two, handle, Range(39, 1))
        yield from self.lock(DENIED, self.two, handle, Range(60, 1))
        yield from self.lock(GRANT, self.three, handle, Range(100, 0))
        yield from self.lock(DENIED, self.one, handle, Range(1 << 40, 1))
        for owner in (self.one, self.two, self.three):
            yield from self.unlock(owner, handle, Range(0, 0))
        yield from self.lock(GRANT, self.two, handle, Range(0, 0))
        yield from self.unlock(self.two, handle, Range(0, 0))

    def blocking(self, handle):
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.lock(BLOCKED, self.two, handle, FIRST, block=True)
        yield from self.lock(BLOCKED, self.two, handle, FIRST, block=True)
        yield from self.unlock(self.one, handle, FIRST)
        yield from self.until("GRANTED", lambda: self.callbacks.take(self.two, handle, FIRST))
        yield from self.lock(DENIED, self.one, handle, FIRST)
        yield from self.unlock(self.two, handle, FIRST)

    def cancelled(self, handle):
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.lock(BLOCKED, self.two, handle, FIRST, block=True)
        status = yield from self.nlm.cancel(self.two, handle, FIRST)
        self.same("CANCEL", status, GRANT)
        yield from self.unlock(self.one, handle, FIRST)
        yield Sleep(0.5)
        if self.callbacks.take(self.two, handle, FIRST):
            raise Wrong("GRANTED after CANCEL")
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.unlock(self.one, handle, FIRST)

    def unwanted(self, handle):
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.lock(BLOCKED, self.two, handle, FIRST, block=True)
        self.callbacks.answer = DENIED
        try:
            yield from self.unlock(self.one, handle, FIRST)
            yield from self.until("GRANTED", lambda: self.callbacks.take(self.two, handle, FIRST))
            yield Sleep(0.3)
        finally:
            self.callbacks.answer = GRANT
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.unlock(self.one, handle, FIRST)

    def message(self, handle):
        cookie = yield from self.nlm.lock_message(self.one, handle, FIRST)
        yield from self.until("LOCK_RES", lambda: cookie in self.callbacks.results)
        self.same("LOCK_MSG", self.callbacks.results.pop(cookie), GRANT)
        yield from self.lock(DENIED, self.two, handle, FIRST)
        yield from self.unlock(self.one, handle, FIRST)

    # Locks that are held

    def hold(self):
        """One has locks, three waits for a part of them, and two tries all the time to get the rest."""
        done = []
        for export in self.options.export:
            self.engine.spawn(self.guarded(export), lambda _: done.append(1))
        self.run_for(self.options.hold + self.options.drain_seconds,
                     lambda: len(done) == len(self.options.export))
        if len(done) < len(self.options.export) and not self.is_ended:
            self.results.error("unanswered", "all", "the load has not come to its end")

    def guarded(self, export):
        try:
            yield from self.held(export, self.handles[export])
        except (*FAULTS, Wrong) as caught:
            kind = "wrong" if isinstance(caught, Wrong) else kind_of(caught)
            self.results.error(kind, export, str(caught))

    def held(self, export, handle):
        yield from self.lock(GRANT, self.one, handle, FIRST)
        yield from self.lock(GRANT, self.one, handle, FAR)
        yield from self.lock(BLOCKED, self.three, handle, FAR, block=True)
        end = time.monotonic() + self.options.hold
        while time.monotonic() < end and not self.is_ended:
            status = yield from self.nlm.lock(self.two, handle, FIRST, label=(export, "lock"))
            if status == GRACE:
                self.grace += 1
            else:
                self.same("LOCK of what another has", status, DENIED)
            if self.callbacks.take(self.three, handle, FAR):
                raise Wrong("GRANTED of what another has")
            yield Sleep(0.02)
        # What was held all the time is given up, and goes to those who want it.
        yield from self.unlock(self.one, handle, FIRST)
        yield from self.lock(GRANT, self.two, handle, FIRST)
        yield from self.unlock(self.one, handle, FAR)
        yield from self.until("GRANTED", lambda: self.callbacks.take(self.three, handle, FAR))
        yield from self.lock(DENIED, self.one, handle, FAR)
        for owner in (self.two, self.three):
            yield from self.unlock(owner, handle, Range(0, 0))

    def report(self):
        return self.results.report({"steps": self.steps, "grace": self.grace})
