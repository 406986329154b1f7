"""What a load has seen: times, errors, the report."""
import array
import json
import resource
import sys
import time


def percentile(ordered, share):
    """Of seconds in order; ms."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)


class Results:
    def __init__(self, options, engine):
        self.options, self.engine = options, engine
        self.errors = {}
        self.details = []
        self.closed = 0
        self.start()
        engine.observe = self.observe
        engine.closed = self.was_closed

    def start(self):
        """Time begins anew, with the load proper."""
        self.begin, self.epoch = time.monotonic(), time.time()
        self.cpu = self.used()
        self.latencies = array.array("f")
        self.by_label = {}
        self.slowest = []
        self.slow_floor = 0.0
        self.second_worst = {}
        self.in_second = 0
        self.stopped = None

    @staticmethod
    def used():
        return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

    def stop(self):
        if self.stopped is None:
            self.stopped, self.stopped_cpu = time.monotonic(), self.used()

    def at(self, moment=None):
        return round((moment or time.monotonic()) - self.begin, 4)

    def error(self, kind, place, text):
        """place: what had it, for people, as `/e1 flow 2`."""
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if len(self.details) < 200:
            entry = {"at": self.at(), "clock": round(time.time(), 3), "kind": kind, "place": place,
                     "text": text}
            self.details.append(entry)
            print(f"{entry['at']:9.3f} {kind}: {place}: {text}", file=sys.stderr, flush=True)

    def was_closed(self, channel, reason):
        self.closed += 1
        self.error("closed", f"{channel.kind} to {channel.address[4][0]}:{channel.address[4][1]}", reason)

    def observe(self, call, now):
        """Calls with a label, (export, what it is), are those that count."""
        if call.label is None or self.stopped is not None:
            return
        self.observe_as(*call.label, call.started, now, call.tries)

    def observe_as(self, export, what, started, now, tries=None):
        took = now - started
        self.in_second += 1
        self.latencies.append(took)
        self.by_label.setdefault(export, array.array("f")).append(took)
        if took > self.second_worst.get(export, 0):
            self.second_worst[export] = took
        if took > self.slow_floor:
            self.slowest.append({
                "ms": round(took * 1000, 2), "at": self.at(started),
                "clock": round(self.epoch + started - self.begin, 3), "export": export,
                "kind": what, "tries": tries})
            if len(self.slowest) >= 60:
                self.trim()

    def trim(self):
        self.slowest.sort(key=lambda entry: -entry["ms"])
        del self.slowest[20:]
        if len(self.slowest) == 20:
            self.slow_floor = self.slowest[-1]["ms"] / 1000

    def live(self, waiting):
        """A line for each second. waiting: the calls without an answer."""
        now = time.monotonic()
        flight = {}
        for call in waiting:
            if call.label:
                flight[call.label[0]] = max(flight.get(call.label[0], 0), now - call.started)
        worst = self.second_worst
        by_export = ",".join(
            f"{export}={max(worst.get(export, 0), flight.get(export, 0)) * 1000:.1f}"
            for export in sorted({*worst, *flight}))
        print(f"{self.at():8.1f} s {self.in_second:6} requests, worst "
              f"{max(worst.values(), default=0) * 1000:8.1f} ms, "
              f"oldest in flight {max(flight.values(), default=0) * 1000:8.1f} ms, "
              f"errors {sum(self.errors.values())}, longest by export {by_export}",
              file=sys.stderr, flush=True)
        self.second_worst, self.in_second = {}, 0

    def report(self, extra):
        self.stop()
        self.trim()
        counts = self.engine.counts
        seconds = self.stopped - self.begin
        ordered = sorted(self.latencies)
        slowest = self.slowest[0] if self.slowest else None
        limit = self.options.max_stall_ms
        ok = not self.errors and not (limit and slowest and slowest["ms"] > limit)
        return {
            "ok": ok, "mode": self.options.mode, "transport": self.options.transport,
            "seconds": round(seconds, 2), "seed": self.options.seed, "started": round(self.epoch, 3),
            "requests": len(ordered),
            "requests_per_second": round(len(ordered) / seconds, 1) if seconds else 0,
            "cpu_percent": round((self.stopped_cpu - self.cpu) / seconds * 100, 1) if seconds else 0,
            "errors": self.errors, "error_count": sum(self.errors.values()),
            "error_details": self.details, "wrong_blocks": 0,
            "closed_connections": self.closed,
            "connects_refused": counts["connects_refused"],
            "retransmissions": counts["retransmissions"], "late_replies": counts["late_replies"],
            "refused": counts["refused"], "jukebox": counts["jukebox"],
            "longest_stall_ms": slowest["ms"] if slowest else None,
            "longest_stall_at": slowest["at"] if slowest else None,
            "longest_stall_clock": slowest["clock"] if slowest else None,
            "latency_ms": {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99),
                           "max": percentile(ordered, 1)},
            "exports": [
                {"export": export, "requests": len(taken), "p50": percentile(taken, 0.5),
                 "p99": percentile(taken, 0.99), "max": percentile(taken, 1)}
                for export, taken in sorted(
                    (export, sorted(taken)) for export, taken in self.by_label.items())],
            "slowest": self.slowest, **extra,
        }


def write(report, path):
    """The last thing on standard output, and the file that was asked for."""
    text = json.dumps(report, indent=1)
    if path:
        with open(path, "w") as file:
            file.write(text + "\n")
    print(text, flush=True)
