#!/usr/bin/env python3
"""Reads and writes over iSCSI without pause and verifies every octet: a real initiator (libiscsi).

    tools/verify-load.py --portal 10.10.0.100 --target iqn.2026-01.lab.dsr:r1 --target iqn...:r2 --seconds 60

Sessions, each one connection to one target (a line per session is in the result):
    default                     one for each target
    --sessions-per-target 2     two for each target, each with a part of the disk
    --sessions 4                four in all: targets in turn, so of six targets the first four
    --sessions 4 --layout random    four in all: of six targets four by chance (--seed)
    --target IQN/1,2,3          one session that uses several logical units, requests to each by chance

Each session owns a range of its disk and first fills it. Every block of 4 KiB carries a stamp (resource,
session, LBA, generation, seed, checksum) and a body that follows from them, so that a wrong, torn, stale or
misplaced block is found. The newest acknowledged generation of each block is remembered: a read must return
exactly that one. Requests in flight never overlap; a write that failed leaves both generations possible.

The initiator does not reconnect by itself: a closed connection is an error, and so is every status other
than GOOD (unit attentions too: only that of the login itself is absorbed by TEST UNIT READY before the
load). --reconnect makes new sessions in place of closed ones, and the errors stay errors.

Errors go to standard error with their time; the last thing on standard output is one JSON object. SIGTERM
and SIGINT end the load early, with the JSON. Exit status: 0 when all was right, 1 when not, 2 for bad use.
"""
import argparse
import array
import ctypes
import itertools
import json
import random
import resource
import select
import signal
import struct
import sys
import time
import zlib

BLOCK = 4096
LARGEST = 256 << 10
SIZES = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10]
MAGIC = b"DSRVERIFY-1\0"
STAMP = struct.Struct("<12sIIIQQQ12s")  # magic, checksum, resource, session, block, generation, seed
STAMP_BODY = struct.Struct("<IIQQQ")
POOL = 1 << 20
CHECK_CONDITION = 2
STATUS = {
    0x02: "check-condition", 0x08: "busy", 0x18: "reservation-conflict", 0x28: "task-set-full",
    0x40: "task-aborted", 0x0F000000: "cancelled", 0x0F000001: "error", 0x0F000002: "timeout",
}


class Sense(ctypes.Structure):
    _fields_ = [("error_type", ctypes.c_ubyte), ("key", ctypes.c_int), ("ascq", ctypes.c_int),
                ("bits", ctypes.c_uint), ("field", ctypes.c_uint16)]


class Task(ctypes.Structure):
    """The beginning of libiscsi's struct scsi_task."""
    _fields_ = [("status", ctypes.c_int), ("cdb_size", ctypes.c_int), ("direction", ctypes.c_int),
                ("expected", ctypes.c_int), ("cdb", ctypes.c_ubyte * 16),
                ("residual_status", ctypes.c_int), ("residual", ctypes.c_size_t), ("sense", Sense),
                ("datain_size", ctypes.c_int), ("datain", ctypes.c_void_p)]


CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def load_library():
    for name in ("libiscsi.so.7", "libiscsi.so.8", "libiscsi.so.9", "libiscsi.so"):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        sys.exit("verify-load: libiscsi is missing: apt-get install libiscsi-bin")
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    sixteen = [pointer, number, ctypes.c_uint64]
    tail = [ctypes.c_uint32] + [number] * 6 + [CALLBACK, pointer]
    for name, result, arguments in [
        ("iscsi_create_context", pointer, [text]),
        ("iscsi_destroy_context", number, [pointer]),
        ("iscsi_set_targetname", number, [pointer, text]),
        ("iscsi_set_session_type", number, [pointer, number]),
        ("iscsi_set_noautoreconnect", None, [pointer, number]),
        ("iscsi_set_initiator_username_pwd", number, [pointer, text, text]),
        ("iscsi_full_connect_async", number, [pointer, text, number, CALLBACK, pointer]),
        ("iscsi_get_fd", number, [pointer]),
        ("iscsi_which_events", number, [pointer]),
        ("iscsi_service", number, [pointer, number]),
        ("iscsi_get_error", text, [pointer]),
        ("iscsi_logout_async", number, [pointer, CALLBACK, pointer]),
        ("iscsi_readcapacity16_task", pointer, [pointer, number, CALLBACK, pointer]),
        ("iscsi_read16_task", pointer, sixteen + tail),
        ("iscsi_write16_task", pointer, sixteen + [pointer] + tail),
        ("scsi_task_add_data_in_buffer", number, [pointer, number, pointer]),
        ("scsi_free_scsi_task", None, [pointer]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


ISCSI = load_library()
LIBC = ctypes.CDLL(None)
LIBC.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
completions = []


@CALLBACK
def complete(_, status, data, slot):
    """Runs inside libiscsi: only takes note."""
    completions.append((status, data, slot or 0, time.monotonic()))


class Pattern:
    """What a block contains."""

    def __init__(self, seed):
        self.seed = seed & (1 << 64) - 1
        # The same in every process, so that blocks of an earlier load are recognised for what they are.
        self.pool = memoryview(random.Random(20011).randbytes(POOL + BLOCK))

    def body(self, session, block, generation):
        at = (block * 2654435761 + generation * 40503 + session * 65599 + self.seed) % POOL
        return self.pool[at:at + BLOCK - STAMP.size]

    def parts(self, number, session, first, generations):
        """Stamps and bodies in turn, to be joined."""
        result = []
        seed = self.seed
        pack, fields, crc, pool = STAMP.pack, STAMP_BODY.pack, zlib.crc32, self.pool
        offset = session * 65599 + seed
        length = BLOCK - STAMP.size
        block = first
        for generation in generations:
            checksum = crc(fields(number, session, block, generation, seed))
            result.append(
                pack(MAGIC, checksum, number, session, block, generation, seed, b""))
            at = (block * 2654435761 + generation * 40503 + offset) % POOL
            result.append(pool[at:at + length])
            block += 1
        return result

    def data(self, number, session, first, generations):
        return b"".join(self.parts(number, session, first, generations))

    def explain(self, found, number, session, block, allowed):
        """Says what is wrong with a block; None when it is one of the generations allowed."""
        fields = STAMP.unpack(found[:STAMP.size])
        magic, checksum, its_number, its_session, its_block, generation, seed, _ = fields
        if magic != MAGIC or checksum != zlib.crc32(
                STAMP_BODY.pack(its_number, its_session, its_block, generation, seed)):
            return "foreign", f"no stamp: {found[:32].hex()}"
        seen = (f"holds resource {its_number} session {its_session} block {its_block} "
                f"generation {generation}" + ("" if seed == self.seed else " of another run"))
        if (its_number, its_session, its_block, seed) != (number, session, block, self.seed):
            return "misplaced", seen
        expected = self.data(number, session, block, [generation])
        if expected != found:
            at = next(i for i in range(BLOCK) if expected[i] != found[i])
            return "torn", f"{seen}, differs from octet {at} on"
        if generation in allowed:
            return None
        newest = max(allowed)
        return ("stale" if generation < newest else "unknown"), f"{seen}, newest is {newest}"


class Slot:
    """A request in flight, with the memory that it uses."""
    __slots__ = ("buffer", "address", "is_read", "first", "count", "generation", "start", "data",
                 "is_busy", "phase", "unit")

    def __init__(self):
        self.buffer = ctypes.create_string_buffer(LARGEST)
        self.address = ctypes.addressof(self.buffer)
        self.is_busy = False
        self.data = None


class Results:
    def __init__(self, options):
        self.begin = time.monotonic()
        self.epoch = time.time()
        self.options = options
        self.reads = self.writes = self.read_octets = self.written_octets = 0
        self.latencies = array.array("f")
        self.by_unit = {}
        self.errors = {}
        self.details = []
        self.slowest = []
        self.slow_floor = 0.0
        self.wrong = 0
        self.closed = self.reconnects = self.attempts = 0
        # By target, since the last line of --live.
        self.second_worst = {}

    def at(self, moment=None):
        return round((moment or time.monotonic()) - self.begin, 4)

    def error(self, kind, session, text):
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if len(self.details) < 200:
            entry = {"at": self.at(), "clock": round(time.time(), 3), "kind": kind,
                     "session": session.index, "target": session.target, "text": text}
            self.details.append(entry)
            print(f"{entry['at']:9.3f} {kind}: session {session.index} {session.target}: {text}",
                  file=sys.stderr, flush=True)

    def latency(self, session, slot, now):
        took = now - slot.start
        self.latencies.append(took)
        if len(session.units) > 1:
            self.by_unit.setdefault(slot.unit, array.array("f")).append(took)
        label = session.label(slot)
        if took > self.second_worst.get(label, 0):
            self.second_worst[label] = took
        if took > self.slow_floor:
            self.slowest.append({
                "ms": round(took * 1000, 2), "at": self.at(slot.start),
                "clock": round(self.epoch + slot.start - self.begin, 3),
                "session": session.index, "target": session.label(slot),
                "kind": "read" if slot.is_read else "write", "octets": slot.count * BLOCK})
            if len(self.slowest) >= 60:
                self.trim()

    def trim(self):
        self.slowest.sort(key=lambda entry: -entry["ms"])
        del self.slowest[20:]
        if len(self.slowest) == 20:
            self.slow_floor = self.slowest[-1]["ms"] / 1000


class Session:
    """One connection to one target, and what is known of the blocks that it owns."""

    def __init__(self, index, target, number, part, parts, rate, options, results, pattern, poll):
        self.index, self.number, self.rate = index, number, rate
        self.target, _, units = target.partition("/")
        self.units = [int(unit) for unit in (units or "1").split(",")]
        self.blocks = []  # Of each unit.
        self.part, self.parts = part, parts
        self.options, self.results, self.pattern, self.poll = options, results, pattern, poll
        self.random = random.Random(f"{options.seed} {index}")
        count = len(self.units) if options.depth_of_unit else 1
        self.slots = [Slot() for _ in range(options.depth * count)]
        self.context = None
        self.acknowledged = None
        self.phase = "new"
        self.descriptor = -1
        self.events = 0
        self.reconnect_at = None
        self.requests = self.closed = 0
        self.is_over = False  # The time of the load is.
        self.last_answer = None
        self.longest_gap = 0.0
        self.longest_gap_at = 0.0
        self.task = ctypes.c_void_p()

    def label(self, slot):
        """What a request is about, for people."""
        return self.target if len(self.units) == 1 else f"{self.target}/{slot.unit}"

    # Life of the connection

    def connect(self):
        name = f"iqn.2026-01.lab.dsr:verify-load-{self.options.seed}-{self.index}"
        self.context = ISCSI.iscsi_create_context(name.encode())
        ISCSI.iscsi_set_targetname(self.context, self.target.encode())
        ISCSI.iscsi_set_session_type(self.context, 2)
        if self.options.user:
            user, _, secret = self.options.user.partition(":")
            ISCSI.iscsi_set_initiator_username_pwd(self.context, user.encode(), secret.encode())
        ISCSI.iscsi_set_noautoreconnect(self.context, 1)
        self.phase = "connecting"
        # Logs in and asks TEST UNIT READY until the login's own unit attention is gone.
        if ISCSI.iscsi_full_connect_async(
                self.context, self.options.portal.encode(), self.units[0], complete, None) != 0:
            return self.fail("connect", self.reason())
        self.watch()

    def reason(self):
        return (ISCSI.iscsi_get_error(self.context) or b"").decode(errors="replace").strip()

    def watch(self):
        """The descriptor that poll looks at; libiscsi changes it and what it waits for."""
        descriptor = ISCSI.iscsi_get_fd(self.context)
        if descriptor != self.descriptor:
            self.forget()
        if descriptor < 0:
            return False
        events = ISCSI.iscsi_which_events(self.context)
        if events != self.events or descriptor != self.descriptor:
            self.poll.register(descriptor, events)
            self.descriptor, self.events = descriptor, events
        return True

    def forget(self):
        if self.descriptor >= 0:
            try:
                self.poll.unregister(self.descriptor)
            except (KeyError, OSError):
                pass
        self.descriptor, self.events = -1, 0

    def service(self, events):
        if ISCSI.iscsi_service(self.context, events) != 0 or not self.watch():
            self.handle()
            if self.phase in ("closing", "closed", "failed"):
                return self.end()
            is_new = self.phase in ("connecting", "capacity", "broken")
            return self.fail(
                "connect" if is_new else "closed", self.reason() or "connection closed")
        self.handle()
        if self.phase in ("run", "fill", "verify"):
            self.issue(time.monotonic())
        if self.context:
            self.watch()

    def fail(self, kind, text):
        if self.phase in ("failed", "closed"):
            return
        if kind == "closed":
            self.results.closed += 1
            self.closed += 1
        self.phase = "failed"
        # An attempt to come back that fails is part of one outage.
        if kind == "connect" and self.acknowledged is not None:
            self.results.attempts += 1
        else:
            self.results.error(kind, self, text)
        self.end()
        for slot in self.slots:  # What libiscsi did not even give back.
            if slot.is_busy:
                self.lose(slot, "lost")
        if self.options.reconnect:
            self.reconnect_at = time.monotonic() + 0.1

    def end(self):
        self.forget()
        if self.context:
            ISCSI.iscsi_destroy_context(self.context)
            # Destroying cancels what is in flight.
            self.handle()
            self.context = None
        if self.phase != "failed":
            self.phase = "closed"

    def close(self):
        if self.phase in ("run", "fill", "verify", "drained") and self.context:
            self.phase = "closing"
            ISCSI.iscsi_logout_async(self.context, complete, None)
            self.watch()

    # Requests

    def prepare(self, blocks):
        """The part of the disk that this session owns."""
        wanted = self.options.range_mib * (1 << 20) // BLOCK // len(self.units)
        size = min(blocks, wanted * self.parts if wanted else blocks) // self.parts
        if size < 2 * LARGEST // BLOCK:
            return self.fail("setup", f"the disk has only {blocks} blocks for {self.parts} sessions")
        # Blocks of the session count through its regions, one of each unit.
        self.base, self.region, self.size = self.part * size, size, size * len(self.units)
        if self.acknowledged is None:
            self.acknowledged = array.array("Q", bytes(8 * self.size))
            self.busy = bytearray(self.size)
            self.possible = {}
            self.generation = 0
            self.cursor = 0
            self.phase = "fill"
        elif self.cursor < self.size:
            self.phase = "fill"
        elif self.is_over:
            self.phase = "drained"
        else:
            self.phase = "run"
            self.due = time.monotonic()
            self.results.reconnects += 1

    def pick(self, index):
        """Read or write, and where, for a slot; None when nothing that is free was found."""
        if self.phase in ("fill", "verify"):
            if self.cursor >= self.size:
                return None
            first = self.cursor
            count = min(LARGEST // BLOCK, self.region - first % self.region)
            self.cursor += count
            return self.phase == "verify", first, count
        chance = self.random.random
        is_read = chance() < self.options.read_share
        for _ in range(8):
            count = self.sizes[int(chance() * len(self.sizes))]
            first = int(chance() * (self.region - count + 1))
            if len(self.units) > 1:
                units = len(self.units)
                place = index % units if self.options.depth_of_unit else int(chance() * units)
                if self.options.unit_seconds:
                    place = int(time.monotonic() / self.options.unit_seconds) % units
                first += place * self.region
            if self.busy.find(1, first, first + count) < 0:
                return is_read, first, count
        return None

    def issue(self, now):
        rate = self.rate if self.phase == "run" else None
        for index, slot in enumerate(self.slots):
            if slot.is_busy:
                continue
            if rate and self.due > now:
                return
            request = self.pick(index)
            if request is None:
                return
            if rate:
                # What could not be sent in time is not made up for by a burst.
                self.due = max(self.due + self.random.expovariate(rate), now - 0.1)
            self.send(index, slot, *request)
            if self.phase == "failed":
                return

    def send(self, index, slot, is_read, first, count):
        slot.is_read, slot.first, slot.count, slot.phase = is_read, first, count, self.phase
        length = count * BLOCK
        ratio = BLOCK // self.block_size
        lba = (self.base + first % self.region) * ratio
        unit = self.units[first // self.region]
        slot.unit = unit
        if is_read:
            slot.start = time.monotonic()
            task = ISCSI.iscsi_read16_task(
                self.context, unit, lba, length, self.block_size, 0, 0, 0, 0, 0, complete,
                index)
            if task:
                ISCSI.scsi_task_add_data_in_buffer(task, length, slot.address)
        else:
            self.generation += 1
            slot.generation = self.generation
            slot.data = self.pattern.data(
                self.number, self.index, self.base + first, itertools.repeat(slot.generation, count))
            slot.start = time.monotonic()
            task = ISCSI.iscsi_write16_task(
                self.context, unit, lba, ctypes.cast(slot.data, ctypes.c_void_p), length,
                self.block_size, 0, 0, 0, 0, 0, complete, index)
        if not task:
            return self.fail("closed", self.reason())
        slot.is_busy = True
        self.busy[first:first + count] = b"\1" * count

    # Answers

    def handle(self):
        """What libiscsi completed in this call of its service function."""
        while completions:
            batch = completions[:]
            completions.clear()
            for status, task, index, now in batch:
                if self.phase == "connecting":
                    self.connected(status)
                elif self.phase == "capacity":
                    self.capacity(status, task)
                elif self.phase == "closing" or self.phase == "closed":
                    self.phase = "closed"
                else:
                    self.answered(status, task, self.slots[index], now)

    def connected(self, status):
        if status != 0:
            return self.fail_later("connect", self.reason())
        self.phase = "capacity"
        self.blocks, self.attempts = [], 0
        self.ask_capacity()

    def ask_capacity(self):
        unit = self.units[len(self.blocks)]
        if not ISCSI.iscsi_readcapacity16_task(self.context, unit, complete, None):
            self.fail_later("setup", self.reason())

    def fail_later(self, kind, text):
        """Not while libiscsi is at work with the context."""
        self.pending = (kind, text)
        self.phase = "broken"

    def capacity(self, status, task):
        if status != 0:
            # A unit other than the first says its login's unit attention here.
            kind = self.describe(status, task)[0]
            if kind == "unit-attention" and self.blocks and self.attempts < 4:
                self.attempts += 1
                ISCSI.scsi_free_scsi_task(task)
                return self.ask_capacity()
            self.phase = "broken"
            self.pending = ("setup", f"READ CAPACITY(16): {self.describe(status, task)[1]}")
            return
        found = Task.from_address(task)
        last, block_size = struct.unpack(">QI", ctypes.string_at(found.datain, 12))
        ISCSI.scsi_free_scsi_task(task)
        self.block_size = block_size
        self.sizes = [size // BLOCK for size in SIZES
                      if self.options.smallest <= size <= self.options.largest]
        self.blocks.append((last + 1) * block_size // BLOCK)
        self.attempts = 0
        if len(self.blocks) < len(self.units):
            return self.ask_capacity()
        self.prepare(min(self.blocks))

    def describe(self, status, task):
        kind = STATUS.get(status, f"status-{status:#x}")
        if status == CHECK_CONDITION and task:
            sense = Task.from_address(task).sense
            if sense.key == 6:
                kind = "unit-attention"
            return kind, (f"CHECK CONDITION, sense key {sense.key:#x}, "
                          f"{sense.ascq >> 8:#04x}/{sense.ascq & 0xff:#04x}")
        return kind, f"status {status:#x} {self.reason()}"

    def answered(self, status, task, slot, now):
        if not slot.is_busy:
            return
        results = self.results
        if status != 0:
            kind, text = self.describe(status, task)
            what = "read" if slot.is_read else "write"
            self.lose(slot, kind, f"{what} of {slot.count} blocks at {self.base + slot.first}: "
                      f"{text}, after {(now - slot.start) * 1000:.1f} ms")
        else:
            self.note_gap(now)
            self.last_answer = now
            self.requests += 1
            if slot.phase == "run":
                results.latency(self, slot, now)
                if slot.is_read:
                    results.reads += 1
                    results.read_octets += slot.count * BLOCK
                else:
                    results.writes += 1
                    results.written_octets += slot.count * BLOCK
            if slot.is_read:
                residual = Task.from_address(task)
                if residual.residual_status != 0:
                    results.error("residual", self, f"{residual.residual} octets fewer or more")
                self.verify(slot)
            else:
                self.acknowledge(slot)
            self.release(slot)
        if task:
            ISCSI.scsi_free_scsi_task(task)

    def note_gap(self, now):
        """Silence between two answers: longer than any request when the connection was lost."""
        if self.last_answer is not None and now - self.last_answer > self.longest_gap \
                and self.phase != "verify":
            self.longest_gap = now - self.last_answer
            self.longest_gap_at = self.results.at(self.last_answer)

    def release(self, slot):
        slot.is_busy, slot.data = False, None
        self.busy[slot.first:slot.first + slot.count] = bytes(slot.count)

    def acknowledge(self, slot):
        first, count = slot.first, slot.count
        self.acknowledged[first:first + count] = array.array("Q", [slot.generation]) * count
        if self.possible:
            for block in range(first, first + count):
                self.possible.pop(block, None)

    def lose(self, slot, kind, text=""):
        """A failed write may have reached the disk, wholly or in part."""
        self.results.error(kind, self, text or "request in flight when the connection ended")
        if slot.phase == "run":
            self.results.latency(self, slot, time.monotonic())
        if not slot.is_read:
            for block in range(slot.first, slot.first + slot.count):
                self.possible.setdefault(block, set()).add(slot.generation)
        self.release(slot)

    def verify(self, slot):
        first, count = slot.first, slot.count
        expected = self.pattern.data(
            self.number, self.index, self.base + first, self.acknowledged[first:first + count])
        if LIBC.memcmp(slot.address, expected, len(expected)) == 0:
            return
        found = slot.buffer.raw
        for block in range(first, first + count):
            at = (block - first) * BLOCK
            content = found[at:at + BLOCK]
            if content == expected[at:at + BLOCK]:
                continue
            allowed = self.possible.get(block, set()) | {self.acknowledged[block]}
            wrong = self.pattern.explain(
                content, self.number, self.index, self.base + block, allowed)
            if wrong:
                self.results.wrong += 1
                self.results.error(
                    f"wrong-{wrong[0]}", self,
                    f"block {self.base + block} (octet {(self.base + block) * BLOCK}): {wrong[1]}")

    @property
    def in_flight(self):
        return sum(slot.is_busy for slot in self.slots)

    @property
    def has_ended(self):
        return self.phase == "closed" or self.phase == "failed" and self.reconnect_at is None


class Load:
    def __init__(self, options):
        self.options = options
        self.results = Results(options)
        self.poll = select.poll()
        self.is_ended = False
        pattern = Pattern(options.seed)
        chosen = self.layout()
        rates = [float(rate) for rate in str(options.rate or 0).split(",")]
        self.sessions = []
        for index, number in enumerate(chosen):
            share = chosen.count(number)
            rate = rates[number % len(rates)] / share
            self.sessions.append(Session(
                index, options.target[number], number, chosen[:index].count(number), share, rate,
                options, self.results, pattern, self.poll))

    def layout(self):
        """The number of each session's target."""
        options = self.options
        targets = list(range(len(options.target)))
        if options.layout == "random":
            random.Random(options.seed).shuffle(targets)
        if options.sessions:
            return [targets[i % len(targets)] for i in range(options.sessions)]
        return [target for target in targets for _ in range(options.sessions_per_target)]

    def turn(self, until=None):
        """Waits for something and deals with it."""
        now = time.monotonic()
        wait = 0.1
        for session in self.sessions:
            if session.phase == "run" and session.rate and session.context:
                session.issue(now)
                if session.context:
                    session.watch()
                wait = min(wait, max(session.due - now, 0.0005))
            if session.reconnect_at and now >= session.reconnect_at:
                session.reconnect_at = None
                session.connect()
        by_descriptor = {s.descriptor: s for s in self.sessions if s.descriptor >= 0}
        for descriptor, events in self.poll.poll(max(1, int(wait * 1000))):
            session = by_descriptor.get(descriptor)
            if session and session.context:
                session.service(events)
                if session.phase == "broken":
                    session.phase = "connecting"
                    session.fail(*session.pending)

    def ready(self):
        """Brings sessions from connected over filled to running."""
        for session in self.sessions:
            if session.phase == "fill":
                if session.cursor >= session.size and session.in_flight == 0:
                    session.phase = "ready"
                elif session.in_flight == 0:
                    session.issue(time.monotonic())
                    if session.context:
                        session.watch()

    def run(self):
        options, results = self.options, self.results
        for session in self.sessions:
            session.connect()
        deadline = time.monotonic() + options.setup_seconds
        while not self.is_ended and any(
                s.phase != "ready" and not s.has_ended for s in self.sessions):
            self.turn()
            self.ready()
            if time.monotonic() > deadline:
                for session in self.sessions:
                    if session.phase != "ready":
                        session.fail("setup", f"no session in {options.setup_seconds} s")
        # Time begins with the load proper.
        results.begin, results.epoch = time.monotonic(), time.time()
        self.started_cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        for session in self.sessions:
            if session.phase == "ready":
                session.phase, session.due = "run", results.begin
                session.last_answer = results.begin
                session.issue(results.begin)
                if session.context:
                    session.watch()
        print("running", file=sys.stderr, flush=True)
        end = results.begin + options.seconds
        second = results.begin + 1
        before = (0, 0)
        while not self.is_ended and time.monotonic() < end:
            self.turn()
            if all(s.has_ended for s in self.sessions):
                break
            if options.live and time.monotonic() >= second:
                second += 1
                before = self.live(before)
        self.stopped = time.monotonic()
        self.stopped_cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        self.finish()

    def live(self, before):
        results = self.results
        count = results.reads + results.writes
        octets = results.read_octets + results.written_octets
        now = time.monotonic()
        flight = {}
        for session in self.sessions:
            for slot in session.slots:
                if slot.is_busy:
                    label = session.label(slot)
                    flight[label] = max(flight.get(label, 0), now - slot.start)
        worst = results.second_worst
        by_target = ",".join(
            f"{target}={max(worst.get(target, 0), flight.get(target, 0)) * 1000:.1f}"
            for target in sorted({*worst, *flight}))
        print(f"{results.at():8.1f} s {count - before[0]:6} requests "
              f"{(octets - before[1]) / 1e6:7.1f} MB, worst {max(worst.values(), default=0) * 1000:8.1f} ms, "
              f"oldest in flight {max(flight.values(), default=0) * 1000:8.1f} ms, "
              f"errors {sum(results.errors.values())}, longest by target {by_target}",
              file=sys.stderr, flush=True)
        results.second_worst = {}
        return count, octets

    def drain(self, seconds):
        """Waits for the answers to what is in flight."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and any(
                s.in_flight and s.context for s in self.sessions):
            self.turn()

    def finish(self):
        options = self.options
        for session in self.sessions:
            session.note_gap(self.stopped)
            session.is_over = True
            if session.phase in ("run", "fill", "ready"):
                session.phase = "drained"
            session.reconnect_at = None
        self.drain(options.drain_seconds)
        for session in self.sessions:
            for slot in session.slots:
                if slot.is_busy:
                    self.results.latency(session, slot, time.monotonic())
                    self.results.error(
                        "unanswered", session,
                        f"{'read' if slot.is_read else 'write'} sent at {self.results.at(slot.start)}"
                        f" has no answer after {options.drain_seconds} s")
        self.verified = None
        if options.final_verify and not any(s.in_flight for s in self.sessions):
            self.final_verify()
        for session in self.sessions:
            session.close()
        limit = time.monotonic() + 2
        while time.monotonic() < limit and any(s.phase == "closing" for s in self.sessions):
            self.turn()

    def final_verify(self):
        wrong = self.results.wrong
        checked = 0
        for session in self.sessions:
            if session.acknowledged is None:
                continue
            if session.context is None:
                self.come_back(session)
            if session.context is None or session.in_flight:
                continue
            session.phase, session.cursor = "verify", 0
            session.issue(time.monotonic())
            session.watch()
            checked += session.size
        limit = time.monotonic() + 120
        while time.monotonic() < limit and any(
                s.phase == "verify" and (s.in_flight or s.cursor < s.size) for s in self.sessions):
            self.turn()
        owned = sum(s.size for s in self.sessions if s.acknowledged is not None)
        unread = owned - checked + sum(
            s.size - s.cursor for s in self.sessions if s.phase == "verify")
        self.verified = {"blocks": owned - unread, "unread": unread,
                         "wrong": self.results.wrong - wrong}
        if unread:
            self.results.error("unverified", self.sessions[0], f"{unread} blocks were not read back")

    def come_back(self, session):
        """The blocks of a session that was closed are read nevertheless, over a new one."""
        limit = time.monotonic() + 10
        while session.phase != "drained" and time.monotonic() < limit:
            if session.context is None:
                session.reconnect_at = None
                session.connect()
            self.turn()
            if session.context is None:
                time.sleep(0.1)
        session.reconnect_at = None

    def report(self):
        results = self.results
        results.trim()
        latencies = sorted(results.latencies)
        seconds = self.stopped - results.begin
        count = results.reads + results.writes

        def percentile(share, of=latencies):
            return round(of[min(len(of) - 1, int(len(of) * share))] * 1000, 3) if of else None

        units = {unit: sorted(taken) for unit, taken in sorted(results.by_unit.items())}

        slowest = results.slowest[0] if results.slowest else None
        ok = not results.errors and count > 0
        limit = self.options.max_stall_ms
        if limit and (slowest is None or slowest["ms"] > limit):
            ok = False
        return {
            "ok": ok, "seconds": round(seconds, 2), "seed": self.options.seed,
            "started": round(results.epoch, 3),
            "requests": count, "reads": results.reads, "writes": results.writes,
            "bytes_read": results.read_octets, "bytes_written": results.written_octets,
            "requests_per_second": round(count / seconds, 1) if seconds else 0,
            "cpu_percent": round((self.stopped_cpu - self.started_cpu) / seconds * 100, 1)
            if seconds else 0,
            "errors": results.errors, "error_count": sum(results.errors.values()),
            "error_details": results.details,
            "closed_connections": results.closed, "reconnects": results.reconnects,
            "reconnects_refused": results.attempts,
            "wrong_blocks": results.wrong, "final_verify": self.verified,
            "longest_stall_ms": slowest["ms"] if slowest else None,
            "longest_stall_at": slowest["at"] if slowest else None,
            "longest_stall_clock": slowest["clock"] if slowest else None,
            "longest_gap_ms": round(max(s.longest_gap for s in self.sessions) * 1000, 2),
            "latency_ms": {"p50": percentile(0.5), "p99": percentile(0.99), "max": percentile(1)},
            "units": [{
                "unit": unit, "requests": len(taken), "p50": percentile(0.5, taken),
                "p99": percentile(0.99, taken), "max": percentile(1, taken)}
                for unit, taken in units.items()],
            "slowest": results.slowest,
            "sessions": [{
                "session": s.index, "target": s.target, "requests": s.requests, "state": s.phase,
                "closed": s.closed,
                "first_block": getattr(s, "base", None), "blocks": getattr(s, "size", None),
                "longest_gap_ms": round(s.longest_gap * 1000, 2),
                "longest_gap_at": s.longest_gap_at} for s in self.sessions],
        }


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--portal", required=True, help="address, or address:port")
    add("--target", action="append", required=True, metavar="IQN[/LUN,...]",
        help="repeat; LUN is 1")
    add("--sessions", type=int, help="in all (default: one for each target)")
    add("--sessions-per-target", type=int, default=1)
    add("--layout", choices=["turn", "random"], default="turn", help="which targets come first")
    add("--depth", type=int, default=16, help="requests in flight of each session")
    add("--depth-of-unit", action="store_true", help="--depth is for each unit of a session, not for all")
    add("--unit-seconds", type=float, help="one unit of a session after the other, for so long")
    add("--seconds", type=float, default=10, help="of load, after the fill")
    add("--seed", type=int, default=1)
    add("--read-share", type=float, default=0.5)
    add("--smallest", type=int, default=SIZES[0], help="octets of a request")
    add("--largest", type=int, default=LARGEST, help="octets of a request")
    add("--rate", help="requests/s for each target; one number, or a list 100,100,150 in their order")
    add("--range-mib", type=int, default=16, help="owned by each session; 0: the whole disk")
    add("--user", help="NAME:SECRET for CHAP")
    add("--reconnect", action="store_true", help="make new sessions in place of closed ones")
    add("--final-verify", action="store_true", help="read all owned blocks back at the end")
    add("--max-stall-ms", type=float, help="not ok when a request took longer")
    add("--setup-seconds", type=float, default=60, help="for logins and fill")
    add("--drain-seconds", type=float, default=30, help="for the last answers")
    add("--live", action="store_true", help="a line each second on standard error")
    add("--output", help="file for the JSON too")
    options = parser.parse_args()
    if options.portal.count(":") != 1 and "]:" not in options.portal:
        host = options.portal
        options.portal = f"[{host}]:3260" if ":" in host and host[0] != "[" else f"{host}:3260"
    if not (1 <= options.depth <= 128 and 0 <= options.read_share <= 1 and options.seconds > 0):
        parser.error("--depth is 1 to 128, --read-share 0 to 1, --seconds more than 0")
    if not any(options.smallest <= size <= options.largest for size in SIZES):
        parser.error("no request size between --smallest and --largest: they are 4096 * 2^n to 262144")
    if (options.sessions or options.sessions_per_target) < 1:
        parser.error("there are no sessions")
    try:
        [float(rate) for rate in str(options.rate or 0).split(",")]
    except ValueError:
        parser.error("--rate is a number or a list of numbers")
    return options


def main():
    options = parse()
    load = Load(options)

    def stop(*_):
        load.is_ended = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    load.run()
    report = load.report()
    text = json.dumps(report, indent=1)
    if options.output:
        with open(options.output, "w") as file:
            file.write(text + "\n")
    print(text, flush=True)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
