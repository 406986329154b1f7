"""ONC RPC (RFC 5531) over UDP and TCP, and the loop that runs many calls at once.

A piece of work is a generator: it yields a Call and is given the reply's Reader, or yields a Sleep or a Gate. What a
Call cannot bring is thrown into it as CallFailed.
"""
import collections
import errno
import heapq
import itertools
import random
import select
import socket
import struct
import time

from .xdr import WORD, ProtocolError, Reader, opaque, string

HEADER = struct.Struct(">IIIIII")
LAST_FRAGMENT = 0x80000000
LARGEST_RECORD = 64 << 20
ACCEPT = {1: "prog-unavail", 2: "prog-mismatch", 3: "proc-unavail", 4: "garbage-args", 5: "system-err"}
BUFFER = 4 << 20
# SO_RCVBUFFORCE, SO_SNDBUFFORCE: beyond what net.core allows; for root only.
FORCE = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}


class CallFailed(Exception):
    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


class Credential:
    """AUTH_SYS."""

    def __init__(self, uid=0, gid=0, groups=(), machine="nfs-load"):
        body = (WORD.pack(1) + string(machine) + struct.pack(">II", uid, gid)
                + WORD.pack(len(groups)) + b"".join(WORD.pack(group) for group in groups))
        self.octets = WORD.pack(1) + opaque(body) + struct.pack(">II", 0, 0)


class Sleep:
    def __init__(self, seconds):
        self.seconds = seconds


class Gate:
    """What waits for it goes on when it is opened."""

    def __init__(self, engine):
        self.engine, self.waiting, self.is_open = engine, [], False

    def open(self):
        self.is_open = True
        self.engine.ready.extend((task, None, None) for task in self.waiting)
        self.waiting.clear()


class Call:
    __slots__ = ("channel", "message", "xid", "label", "task", "started", "timeout", "tries", "is_over",
                 "limit")
    xids = itertools.count(random.getrandbits(32))

    def __init__(self, channel, program, version, procedure, arguments, label=None):
        self.channel, self.label = channel, label
        self.xid = next(self.xids) & 0xFFFFFFFF
        self.message = (HEADER.pack(self.xid, 0, 2, program, version, procedure)
                        + channel.credential.octets + arguments)
        self.tries, self.is_over = 0, False


class Settings:
    """How channels behave."""

    def __init__(self, rto=0.5, rto_max=4.0, limit=60.0, reconnect=False, fragment=0, source=None,
                 reserved=False):
        # First wait for an answer over UDP, doubled each time up to rto_max; s.
        self.rto, self.rto_max = rto, rto_max
        # A call without an answer after this time is an error; s.
        self.limit = limit
        self.reconnect = reconnect
        # Octets of the RPC fragments of a record over TCP; 0: a record is one fragment.
        self.fragment = fragment
        self.source, self.reserved = source, reserved


class Channel:
    """A UDP socket or a TCP connection, with the calls that wait for an answer there."""

    def __init__(self, engine, host, port, kind, credential, settings):
        self.engine, self.kind, self.credential, self.settings = engine, kind, credential, settings
        self.is_tcp = kind == "tcp"
        self.address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM if self.is_tcp else socket.SOCK_DGRAM)[0]
        self.calls = {}
        self.out = collections.deque()
        self.socket = None
        self.is_closed = False
        # Whether something has come, or gone out, over the connection of now.
        self.is_up = False
        self.buffer = bytearray()
        self.record = bytearray()
        self.need = None
        self.is_last = False
        self.open()

    def open(self):
        family, kind, protocol, _, address = self.address
        self.socket = socket.socket(family, kind, protocol)
        self.socket.setblocking(False)
        for option, force in FORCE.items():
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, force, BUFFER)
            except OSError:
                self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if self.is_tcp:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bind(family)
        try:
            self.socket.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            self.engine.later(0, lambda: self.broken(str(error)))
        self.buffer.clear()
        self.record.clear()
        self.need = None
        self.is_up = False
        self.engine.watch(self)

    def bind(self, family):
        source = self.settings.source or ("::" if family == socket.AF_INET6 else "0.0.0.0")
        if not self.settings.reserved:
            if self.settings.source:
                self.socket.bind((source, 0))
            return
        for port in random.sample(range(600, 1024), 424):
            try:
                return self.socket.bind((source, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError("no reserved port is free")

    @property
    def events(self):
        return select.POLLIN | (select.POLLOUT if self.out else 0)

    # Calls

    def send(self, call):
        self.calls[call.xid] = call
        call.tries += 1
        if not self.is_tcp:
            self.out.append(call.message)
        else:
            size = self.settings.fragment or len(call.message)
            pieces = range(0, len(call.message), size)
            for at in pieces:
                piece = call.message[at:at + size]
                last = LAST_FRAGMENT if at == pieces[-1] else 0
                self.out.append(WORD.pack(last | len(piece)) + piece)
        if self.socket:
            self.flush()

    def flush(self):
        while self.out:
            piece = self.out[0]
            try:
                count = self.socket.send(piece)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if self.is_tcp:
                    if error.errno == errno.ENOTCONN:
                        break
                    return self.broken(str(error))
                # The refusal of an earlier datagram; this one was not sent, and is when its time is up.
                self.engine.counts["refused"] += 1
                count = len(piece)
            self.is_up = True
            if count == len(piece):
                self.out.popleft()
            else:
                self.out[0] = memoryview(piece)[count:]
        self.engine.watch(self)

    def service(self, events):
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self.receive()
        if self.socket and events & select.POLLOUT:
            self.flush()

    def receive(self):
        while self.socket:
            try:
                data = self.socket.recv(1 << 20 if self.is_tcp else 65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if self.is_tcp:
                    return self.broken(str(error))
                self.engine.counts["refused"] += 1
                continue
            if not self.is_tcp:
                self.answer(data)
            elif data:
                self.is_up = True
                self.buffer += data
                self.records()
            else:
                return self.broken("connection closed")

    def records(self):
        at, buffer = 0, self.buffer
        while True:
            if self.need is None:
                if len(buffer) - at < 4:
                    break
                mark = WORD.unpack_from(buffer, at)[0]
                self.is_last, self.need = bool(mark & LAST_FRAGMENT), mark & ~LAST_FRAGMENT
                at += 4
                if self.need + len(self.record) > LARGEST_RECORD:
                    return self.broken(f"record of more than {LARGEST_RECORD} octets")
            if len(buffer) - at < self.need:
                break
            fragment = buffer[at:at + self.need]
            at += self.need
            self.need = None
            if self.is_last and not self.record:
                self.answer(bytes(fragment))
            else:
                self.record += fragment
                if self.is_last:
                    self.answer(bytes(self.record))
                    self.record.clear()
        del buffer[:at]

    def answer(self, data):
        call = self.calls.pop(WORD.unpack_from(data)[0], None) if len(data) >= 4 else None
        if call is None:
            # The second answer to a call that was sent twice.
            self.engine.counts["late_replies"] += 1
            return
        reader = Reader(data, 4)
        try:
            kind, state = reader.number(), reader.number()
            if kind != 1:
                raise ProtocolError(f"message of type {kind} instead of a reply")
            if state != 0:
                return self.engine.fail(call, "rpc-denied", f"reject status {reader.number()}")
            reader.number()
            reader.opaque(400)
            accepted = reader.number()
        except ProtocolError as error:
            return self.engine.fail(call, "protocol", str(error))
        if accepted != 0:
            return self.engine.fail(
                call, "rpc-" + ACCEPT.get(accepted, f"accept-{accepted}"), f"accept status {accepted}")
        self.engine.succeed(call, reader)

    # The end of connections

    def broken(self, reason):
        """A TCP connection ended or did not come up. Calls that wait go out again over a new one, under their
        old numbers."""
        if self.is_closed or self.socket is None:
            return
        self.engine.forget(self)
        self.socket.close()
        self.socket = None
        self.out.clear()
        if self.is_up:
            self.engine.closed(self, reason)
        else:
            # An attempt to come back that fails is part of one outage.
            self.engine.counts["connects_refused"] += 1
        if self.settings.reconnect:
            self.engine.later(0.1, self.reopen)
        else:
            self.is_closed = True
            self.abandon("closed" if self.is_up else "connect", reason)

    def reopen(self):
        if self.is_closed:
            return
        self.open()
        for call in list(self.calls.values()):
            self.send(call)

    def abandon(self, kind, reason):
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            self.engine.fail(call, kind, reason)

    def close(self):
        if self.socket:
            self.engine.forget(self)
            self.socket.close()
            self.socket = None
        self.is_closed = True


class Engine:
    """Runs generators, and the channels on which they wait."""

    def __init__(self):
        self.poll = select.poll()
        self.channels = {}
        self.registered = {}
        self.ready = collections.deque()
        self.timers = []
        self.order = itertools.count()
        self.counts = collections.Counter()
        # Called with each call that has got its answer, and the time.
        self.observe = lambda call, now: None
        # Called with a channel whose connection ended, and the reason.
        self.closed = lambda channel, reason: None
        self.later(0.5, self.sweep)

    # Work

    def spawn(self, generator, then=None):
        """Runs a generator; its result goes to `then`."""
        self.ready.append((self.guard(generator, then), None, None))

    @staticmethod
    def guard(generator, then):
        result = yield from generator
        if then:
            then(result)

    def later(self, seconds, action):
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.order), action))

    def step(self, task, value, error):
        try:
            wanted = task.throw(error) if error else task.send(value)
        except StopIteration:
            return
        if isinstance(wanted, Sleep):
            self.later(wanted.seconds, lambda: self.ready.append((task, None, None)))
            return
        if isinstance(wanted, Gate):
            if wanted.is_open:
                self.ready.append((task, None, None))
            else:
                wanted.waiting.append(task)
            return
        wanted.task = task
        now = time.monotonic()
        wanted.started, wanted.limit = now, now + wanted.channel.settings.limit
        channel = wanted.channel
        if channel.is_closed:
            return self.fail(wanted, "closed", "the connection was closed before")
        wanted.timeout = channel.settings.rto
        channel.send(wanted)
        if not channel.is_tcp:
            self.arm(wanted, now)

    def arm(self, call, now):
        """The moment when a call over UDP is sent again."""
        wait = min(call.timeout, call.channel.settings.rto_max)
        heapq.heappush(self.timers, (now + wait, next(self.order), call))

    def expire(self, call, now):
        if call.is_over:
            return
        if now >= call.limit:
            return self.give_up(call, now)
        self.counts["retransmissions"] += 1
        call.channel.send(call)
        call.timeout *= 2
        self.arm(call, now)

    def sweep(self):
        """What waits over TCP is looked through now and then: a timer for each call would outlive it."""
        now = time.monotonic()
        for channel in list(self.channels.values()):
            if channel.is_tcp:
                for call in [call for call in channel.calls.values() if now >= call.limit]:
                    self.give_up(call, now)
        self.later(0.5, self.sweep)

    def give_up(self, call, now):
        call.channel.calls.pop(call.xid, None)
        self.fail(
            call, "unanswered", f"no answer after {now - call.started:.1f} s and {call.tries} tries")

    def succeed(self, call, reader):
        call.is_over, call.message = True, None
        self.observe(call, time.monotonic())
        self.ready.append((call.task, reader, None))

    def fail(self, call, kind, text):
        call.is_over, call.message = True, None
        self.ready.append((call.task, None, CallFailed(kind, text)))

    # Sockets

    def watch(self, channel):
        if channel.socket is None:
            return
        descriptor = channel.socket.fileno()
        events = channel.events
        if self.channels.get(descriptor) is not channel or self.registered.get(descriptor) != events:
            self.poll.register(descriptor, events)
            self.channels[descriptor] = channel
            self.registered[descriptor] = events

    def forget(self, channel):
        descriptor = channel.socket.fileno()
        if self.channels.get(descriptor) is channel:
            self.poll.unregister(descriptor)
            del self.channels[descriptor], self.registered[descriptor]

    def turn(self, until):
        """Waits until something happens, not beyond a time, and does what is to be done then."""
        ready, timers = self.ready, self.timers
        while timers and isinstance(timers[0][2], Call) and timers[0][2].is_over:
            heapq.heappop(timers)
        wait = 0
        if not ready:
            due = min(until, timers[0][0]) if timers else until
            wait = max(0, due - time.monotonic())
        # Rounded up: a wait of 0 ms until a time that is not yet there would be a busy loop.
        for descriptor, events in self.poll.poll(wait * 1000 + 0.999 if wait else 0):
            channel = self.channels.get(descriptor)
            if channel:
                channel.service(events)
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            action = heapq.heappop(timers)[2]
            if isinstance(action, Call):
                self.expire(action, now)
            else:
                action()
        for _ in range(len(ready)):
            self.step(*ready.popleft())

    def run(self, condition, seconds=1e9):
        """Until the condition holds; false when it did not in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                return False
            self.turn(min(end, time.monotonic() + 0.1))
        return True

    def complete(self, generator, seconds=1e9):
        """Runs a generator to its end and returns its result; what it raises is raised."""
        box = []

        def wrapped():
            try:
                box.append(((yield from generator), None))
            except Exception as error:  # noqa: BLE001: raised again below
                box.append((None, error))

        self.spawn(wrapped())
        if not self.run(lambda: box, seconds):
            raise CallFailed("unanswered", f"not done in {seconds} s")
        result, error = box[0]
        if error:
            raise error
        return result
