"""Requests per second of one procedure, with as little work of our own as there can be."""
import array
import collections
import json
import os
import random
import select
import signal
import socket
import struct
import time

from .load import FAULTS, Load, SetupError
from .nfs import FILE_SYNC, NFS, OK, UNCHECKED, NFSError
from .results import percentile
from .rpc import BUFFER, FORCE, HEADER, LAST_FRAGMENT
from .xdr import WORD, opaque

FILE = 4 << 20
#: Octets of an answer before the status, when the verifier is empty.
STATUS = 24


class PerfLoad(Load):
    def __init__(self, options):
        super().__init__(options)
        self.length = options.size
        self.outcome = []

    # Files

    def files(self):
        """Handles to ask for: files of each export in turn."""
        found = []
        client = self.client()
        for number in range(self.options.files):
            path = self.options.export[number % len(self.options.export)]
            name = f"nfs-load-{self.options.seed}-p{number}"
            status, made = yield from client.create(self.roots[path], name, UNCHECKED)
            if status != OK:
                raise NFSError(f"CREATE {name}", status)
            handle = made[0]
            if handle is None:
                status, looked = yield from client.lookup(self.roots[path], name)
                handle = looked[0] if status == OK else None
            found.append((path, name, handle))
            if self.options.procedure == "read":
                yield from self.fill(client, handle)
        return client, found

    @staticmethod
    def fill(client, handle):
        """Each 8 octets are their own offset."""
        for offset in range(0, FILE, 32768):
            data = b"".join(struct.pack(">Q", at) for at in range(offset, offset + 32768, 8))
            status, _ = yield from client.write(handle, offset, data, FILE_SYNC)
            if status != OK:
                raise NFSError("WRITE", status)

    def remove(self, client, files):
        for path, name, _ in files:
            yield from client.remove(self.roots[path], name)
        client.channel.close()

    # The load

    def run(self):
        self.prepare()
        options = self.options
        try:
            client, files = self.engine.complete(self.files(), options.setup_seconds)
        except FAULTS as error:
            raise SetupError(f"{type(error).__name__}: {error}")
        handles = [handle for _, _, handle in files]
        print("running", file=options.stderr, flush=True)
        self.results.start()
        children = []
        share = [options.sockets // options.processes + (index < options.sockets % options.processes)
                 for index in range(options.processes)]
        for index, sockets in enumerate(share[1:], 1):
            children.append(self.fork(index, sockets, handles))
        self.outcome.append(self.measure(0, share[0], handles))
        for pid, end in children:
            if self.is_ended:
                os.kill(pid, signal.SIGTERM)
            with os.fdopen(end) as file:
                text = file.read()
            os.waitpid(pid, 0)
            if text:
                self.outcome.append(json.loads(text))
            else:
                self.results.error("process", "perf", f"process {pid} ended without a result")
        self.results.stop()
        if not options.keep:
            try:
                self.engine.complete(self.remove(client, files), 60)
            except FAULTS as error:
                self.results.error("cleanup", "perf", str(error))

    def fork(self, index, sockets, handles):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with os.fdopen(theirs, "w") as file:
                    file.write(json.dumps(self.measure(index, sockets, handles)))
                status = 0
            finally:
                os._exit(status)
        os.close(theirs)
        return pid, ours

    def messages(self, handles):
        """Everything behind the XID, one for each handle; and a function for what changes from call to call."""
        procedure = {"null": 0, "getattr": 1, "read": 6}[self.options.procedure]
        head = HEADER.pack(0, 0, 2, NFS, 3, procedure)[4:] + self.credential.octets
        if procedure == 0:
            return [head]
        if procedure == 1:
            return [head + opaque(handle) for handle in handles]
        chance = random.Random(self.options.seed)
        offsets = [chance.randrange(FILE // self.length) * self.length for _ in range(1024)]
        return [head + opaque(handles[at % len(handles)]) + struct.pack(">QI", offset, self.length)
                for at, offset in enumerate(offsets)]

    def measure(self, index, sockets, handles):
        """Depth calls in flight at each socket, each answer followed by the next call."""
        options = self.options
        is_tcp = options.transport == "tcp"
        messages = self.messages(handles)
        poll = select.epoll()
        places = {}
        for number in range(sockets):
            place = Place(self, is_tcp, messages, (index << 16 | number) << 12)
            places[place.socket.fileno()] = place
            poll.register(place.socket.fileno(), select.EPOLLIN)
        begin = time.monotonic()
        cpu = time.process_time()
        end = begin + options.seconds
        for place in places.values():
            place.fill(begin, options.depth)
        check = begin + options.rto
        while True:
            now = time.monotonic()
            if now >= end or self.is_ended:
                break
            if now >= check:
                check = now + options.rto / 4
                for place in places.values():
                    place.again(now - options.rto)
            for descriptor, _ in poll.poll(0.05):
                places[descriptor].service()
        seconds = time.monotonic() - begin
        latencies = array.array("f")
        errors = collections.Counter()
        for place in places.values():
            latencies.extend(place.latencies)
            errors.update(place.errors)
            place.socket.close()
        return {
            "seconds": seconds, "requests": len(latencies), "lost": sum(p.lost for p in places.values()),
            "errors": dict(errors), "latencies": sorted(latencies)[:: max(1, len(latencies) // 200000)],
            "cpu_percent": round((time.process_time() - cpu) / seconds * 100, 1)}

    def report(self):
        for part in self.outcome:
            for kind, count in part["errors"].items():
                self.results.error(kind, "perf", f"{count} answers")
                self.results.errors[kind] += count - 1
        ordered = sorted(value for part in self.outcome for value in part["latencies"])
        requests = sum(part["requests"] for part in self.outcome)
        lost = sum(part["lost"] for part in self.outcome)
        report = self.results.report({
            "procedure": self.options.procedure, "size": self.length if self.options.procedure == "read" else None,
            "sockets": self.options.sockets, "depth": self.options.depth, "files": self.options.files,
            "processes": self.options.processes, "requests": requests, "lost": lost,
            "requests_per_second": round(
                sum(part["requests"] / part["seconds"] for part in self.outcome), 1),
            "cpu_percent": round(sum(part["cpu_percent"] for part in self.outcome), 1),
            "latency_ms": {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99),
                           "max": percentile(ordered, 1)}})
        report["ok"] = report["ok"] and requests > 0
        return report


class Place:
    """A socket with its calls in flight. A call without an answer after the RTO is lost, and another takes its
    place: what is measured is not how long a retransmission takes."""

    def __init__(self, load, is_tcp, messages, first):
        options = load.options
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.server, load.mounter.port,
            type=socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM)[0]
        self.socket = socket.socket(family, kind, protocol)
        for option, force in FORCE.items():
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, force, BUFFER)
            except OSError:
                self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if options.source:
            self.socket.bind((options.source, 0))
        self.socket.connect(address)
        self.socket.setblocking(False)
        self.is_tcp, self.messages = is_tcp, messages
        self.xid = (random.getrandbits(31) ^ first) & 0xFFFFFFFF
        self.next = first % len(messages)
        self.sent = {}
        self.latencies = array.array("f")
        self.errors = collections.Counter()
        self.lost = 0
        self.pending = bytearray()
        self.out = bytearray()
        self.is_read = options.procedure == "read"
        self.has_status = options.procedure != "null"
        self.length = options.size

    def fill(self, now, count):
        for _ in range(count):
            self.send(now)

    def send(self, now):
        self.xid = self.xid + 1 & 0xFFFFFFFF
        self.next = (self.next + 1) % len(self.messages)
        body = self.messages[self.next]
        message = WORD.pack(self.xid) + body
        # The offset that a READ asks for is to be the beginning of what comes.
        self.sent[self.xid] = now, body[-12:-4] if self.is_read else None
        if self.is_tcp:
            self.out += WORD.pack(LAST_FRAGMENT | len(message)) + message
            return self.flush()
        try:
            self.socket.send(message)
        except OSError as error:
            self.errors[f"send-{error.errno}"] += 1

    def flush(self):
        while self.out:
            try:
                del self.out[:self.socket.send(self.out)]
            except BlockingIOError:
                return
            except OSError as error:
                self.errors[f"send-{error.errno}"] += 1
                return self.out.clear()

    def service(self):
        if self.is_tcp:
            return self.service_stream()
        receive, sent, latencies = self.socket.recv, self.sent, self.latencies
        for _ in range(64):
            try:
                data = receive(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self.errors[f"receive-{error.errno}"] += 1
                return
            self.answer(data)

    def answer(self, data):
        now = time.monotonic()
        call = self.sent.pop(WORD.unpack_from(data)[0], None)
        if call is None:
            return
        self.latencies.append(now - call[0])
        if data[4:24] != b"\0\0\0\1" + bytes(16):
            self.errors["rpc"] += 1
        elif self.has_status and data[STATUS:STATUS + 4] != b"\0\0\0\0":
            self.errors[f"status-{WORD.unpack_from(data, STATUS)[0]}"] += 1
        elif self.is_read and data[len(data) - self.length:len(data) - self.length + 8] != call[1]:
            self.errors["wrong-content"] += 1
        self.send(now)

    def service_stream(self):
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            self.errors[f"receive-{error.errno}"] += 1
            return
        self.pending += data
        at = 0
        while len(self.pending) - at >= 4:
            length = WORD.unpack_from(self.pending, at)[0] & ~LAST_FRAGMENT
            if len(self.pending) - at - 4 < length:
                break
            self.answer(self.pending[at + 4:at + 4 + length])
            at += 4 + length
        del self.pending[:at]
        self.flush()

    def again(self, before):
        """Gives up what was sent before a time."""
        if self.is_tcp:
            return self.flush()
        now = time.monotonic()
        for xid in [xid for xid, call in self.sent.items() if call[0] < before]:
            del self.sent[xid]
            self.lost += 1
            self.send(now)
