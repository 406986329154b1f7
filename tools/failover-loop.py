#!/usr/bin/env python3
"""Fails servers again and again under a load that verifies every octet, and says what clients saw of it.

    sudo tools/failover-loop.py --failovers 50 --kind kill

The lab fig2-san comes up once and the load runs without pause: 4 sessions over four of r1 to r6 with at least
one of each server, 16 requests in flight each. Every round waits a random while, breaks a server that owns resources, waits until they are
at others, lets the load go on, mends the server and moves the resources back, so that every round starts
from the same assignment. Kinds:

    kill    SIGKILL of tgtd             link    the server's cable is pulled
    freeze  SIGSTOP of tgtd             remove  the switch's port is deleted
    drain   dsrctl server drain         all     each in turn

Wanted: no error, no closed connection, no wrong octet, no resource left behind, and no request that takes
longer than --max-stall-ms. A line for each round, then a summary with the median and the longest stall.
Exit status 1 when something is not as wanted, 2 when it cannot be run.
"""
import argparse
import glob
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KINDS = ["kill", "freeze", "link", "remove", "drain"]
TARGET = "iqn.2026-01.lab.dsr:"


class Failure(Exception):
    pass


def run(words, check=True, seconds=60, **options):
    result = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        **options)
    if check and result.returncode != 0:
        raise Failure(f"{' '.join(words)}: status {result.returncode}: {result.stdout.strip()}")
    return result.stdout


class Lab:
    def __init__(self, options):
        self.options = options
        self.programs = options.programs
        self.prefix = f"failover-{os.getpid()}"
        self.state = f"/run/dsr-lab/{self.prefix}"
        self.configuration = f"/tmp/{self.prefix}.yaml"
        self.environment = dict(os.environ, DSR_SOCKET=f"{self.state}/dsrd.sock")

    def __enter__(self):
        with open(f"{HERE}/topologies/{self.options.topology}/dsr.yaml") as file:
            text = file.read().replace(f"/run/dsr-lab/{self.options.topology}", self.state)
        with open(self.configuration, "w") as file:
            file.write(text)
        try:
            self.lab("up", f"{HERE}/topologies/{self.options.topology}", "--prefix", self.prefix,
                     "--dsr-config", self.configuration)
        except BaseException:
            os.unlink(self.configuration)
            raise
        return self

    def __exit__(self, *_):
        if self.options.keep:
            print(f"kept: dsr-lab down {self.prefix}; {self.configuration}")
            return
        self.lab("down", self.prefix, check=False)
        os.unlink(self.configuration)

    def lab(self, *words, check=True):
        return run([f"{self.programs}/dsr-lab", *words], check)

    def control(self, *words, check=True):
        return run([f"{self.programs}/dsrctl", *words], check, env=self.environment)

    # What dsrctl answers is read here and nowhere else.

    def listing(self, *words):
        try:
            value = json.loads(self.control(*words, "--json"))
        except ValueError as error:
            raise Failure(f"dsrctl {' '.join(words)}: no JSON: {error}")
        if isinstance(value, dict):  # {"resources": [...]}
            value = next((v for v in value.values() if isinstance(v, list)), [])
        return value

    def owners(self):
        """Resource to server."""
        owners = {}
        for entry in self.listing("resource", "list"):
            place = next((entry[key] for key in ("assigned", "server", "owner") if entry.get(key)),
                         None)
            owners[entry["name"]] = place["name"] if isinstance(place, dict) else place
        return owners

    def healthy(self):
        return {entry["name"] for entry in self.listing("server", "list")
                if entry.get("health") in ("healthy", "up")}

    def events(self):
        try:
            return self.listing("events")
        except Failure:
            return []

    def move(self, name, server):
        self.control("resource", "move", name, server)

    # Failures

    def fail(self, kind, server):
        if kind == "drain":
            self.control("server", "drain", server)
        elif kind in ("kill", "freeze"):
            self.lab("service", self.prefix, server, kind, "--kind", "tgtd")
        else:
            self.lab("link", self.prefix, server, "down" if kind == "link" else "remove")

    def mend(self, kind, server):
        if kind == "drain":
            self.control("server", "undrain", server)
        elif kind == "freeze":
            # It may have been fenced meanwhile.
            status = self.lab("service", self.prefix, server, "status", "--kind", "tgtd",
                              check=False)
            verb = "start" if "ENDED" in status else "thaw"
            self.lab("service", self.prefix, server, verb, "--kind", "tgtd")
        elif kind == "kill":
            self.lab("service", self.prefix, server, "start", "--kind", "tgtd")
        else:
            self.lab("link", self.prefix, server, "up" if kind == "link" else "add")
            status = self.lab("service", self.prefix, server, "status", "--kind", "tgtd",
                              check=False)
            if "ENDED" in status:
                self.lab("service", self.prefix, server, "start", "--kind", "tgtd")
            elif "frozen" in status:
                self.lab("service", self.prefix, server, "thaw", "--kind", "tgtd")


class Load:
    """verify-load.py on the client; its errors as they come, its result at the end."""

    def __init__(self, lab, options, home):
        self.errors = []
        self.output = f"/tmp/{lab.prefix}.json"
        self.is_running = threading.Event()
        words = [f"{lab.programs}/dsr-lab", "exec", lab.prefix, "client1", "--",
                 f"{HERE}/tools/verify-load.py", "--portal", "10.10.0.100", "--seconds", "1000000",
                 "--sessions", str(options.sessions), "--depth", str(options.depth), "--seed",
                 str(options.seed), "--final-verify", "--output", self.output, "--live"]
        if options.rate:
            words += ["--rate", options.rate]
        for name in self.order(home, random.Random(options.seed)):
            words += ["--target", TARGET + name]
        self.worst = 0.0
        self.lines = 0
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        if not self.is_running.wait(60) or self.process.poll() is not None:
            self.process.kill()
            raise Failure("the load does not start: " + "; ".join(self.errors[:3]))

    @staticmethod
    def order(home, chance):
        """Resources by chance, but first one of each server: sessions take them in turn."""
        names = chance.sample(sorted(home), len(home))
        first = {home[name]: name for name in names}.values()
        return [*first, *(name for name in names if name not in first)]

    def read(self):
        for line in self.process.stderr:
            words = line.split()
            if line.strip() == "running":
                self.is_running.set()
            elif "requests" in words and "worst" in words:
                # Also a request that has no answer yet is a stall.
                self.worst = max(self.worst, float(words[words.index("worst") + 1]),
                                 float(words[words.index("flight") + 1]))
                self.lines += 1
            else:
                self.errors.append(line.strip())
        self.is_running.set()

    def take_worst(self):
        """The longest request since the last call, ms; the load tells it once a second."""
        line = self.lines
        limit = time.monotonic() + 3
        while self.lines == line and time.monotonic() < limit and self.is_alive:
            time.sleep(0.02)
        worst, self.worst = self.worst, 0.0
        return worst

    @property
    def is_alive(self):
        return self.process.poll() is None

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(180)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("the load does not end")
        with open(self.output) as file:
            return json.load(file)

    def clean(self):
        if self.is_alive:
            self.process.kill()
        if os.path.exists(self.output):
            os.unlink(self.output)


def wait_for(seconds, condition):
    """The time that it took; None when it did not become so."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if condition():
            return time.monotonic() - start
        time.sleep(0.02)
    return None


class Loop:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.stalls = []
        self.takeovers = []
        self.problems = []

    def round(self, number, lab, load, home):
        options = self.options
        kind = KINDS[(number - 1) % len(KINDS)] if options.kind == "all" else options.kind
        time.sleep(self.random.uniform(0.5, 0.5 + options.pause))
        owners = lab.owners()
        server = options.server or self.random.choice(sorted(set(owners.values())))
        mine = sorted(name for name, owner in owners.items() if owner == server)
        errors = len(load.errors)
        load.take_worst()
        lab.fail(kind, server)

        def is_over():
            now = lab.owners()
            return all(now.get(name) not in (server, None) for name in mine)

        took = wait_for(options.takeover_seconds, is_over)
        after = lab.owners()
        time.sleep(options.settle)
        stall = load.take_worst()
        problems = []
        if took is None:
            left = [name for name in mine if after.get(name) == server]
            problems.append(f"{','.join(left)} not taken over in {options.takeover_seconds} s")
        lab.mend(kind, server)
        problems += self.restore(lab, home)
        if len(load.errors) > errors:
            problems.append(f"{len(load.errors) - errors} errors: {load.errors[errors]}")
        stall = max(stall, load.take_worst())
        if stall > options.max_stall_ms:
            problems.append(f"stall of {stall:.0f} ms")
        self.stalls.append(stall)
        if took is not None:
            self.takeovers.append(took * 1000)
        moved = " ".join(f"{name}->{after.get(name)}" for name in mine)
        duration = f"{took * 1000:7.0f} ms" if took is not None else "      -   "
        print(f"{number:4} {kind:7}{server:9} over after {duration}  stall {stall:7.0f} ms  "
              f"{moved}  {'; '.join(problems) or 'ok'}"[:300], flush=True)
        self.problems += [f"round {number}: {problem}" for problem in problems]

    def restore(self, lab, home):
        """The server is healthy again and every resource where it was at first."""
        if wait_for(30, lambda: set(home.values()) <= lab.healthy()) is None:
            return [f"not healthy again: {', '.join(set(home.values()) - lab.healthy())}"]
        failures = []
        for name, owner in lab.owners().items():
            if owner == home[name]:
                continue
            try:
                lab.move(name, home[name])
            except Failure as failure:
                failures.append(str(failure))
        if wait_for(10, lambda: lab.owners() == home) is None:
            failures.append(f"resources are at {lab.owners()}")
        return failures

    def run(self):
        options = self.options
        with Lab(options) as lab:
            home = lab.owners()
            if None in home.values() or len(home) < 6:
                raise Failure(f"dsrctl resource list gives no assignment: {home}")
            load = Load(lab, options, home)
            try:
                for number in range(1, options.failovers + 1):
                    self.round(number, lab, load, home)
                    if not load.is_alive:
                        self.problems.append("the load ended: all its sessions are closed")
                        break
                result = load.end()
            finally:
                load.clean()
            events = lab.events()
        return self.summary(result, events)

    def summary(self, result, events):
        if options_file := self.options.output:
            with open(options_file, "w") as file:
                json.dump({"load": result, "stalls_ms": self.stalls, "problems": self.problems,
                           "takeovers_ms": self.takeovers, "events": events}, file, indent=1)
        print(f"\n{len(self.stalls)} rounds; stall median {statistics.median(self.stalls):.0f} ms, "
              f"longest {max(self.stalls):.0f} ms"
              + (f"; over after {statistics.median(self.takeovers):.0f} ms, at most "
                 f"{max(self.takeovers):.0f} ms" if self.takeovers else ""))
        verified = result["final_verify"] or {"blocks": 0, "wrong": 0}
        print(f"load: {result['requests']} requests, "
              f"{(result['bytes_read'] + result['bytes_written']) / 1e9:.1f} GB, errors "
              f"{result['errors'] or 'none'}, closed connections {result['closed_connections']}, "
              f"wrong blocks {result['wrong_blocks']}; read back at the end: "
              f"{verified['blocks']} blocks, {verified['wrong']} wrong")
        if not result["ok"]:
            self.problems.append("the load is not ok")
        for problem in self.problems[:20]:
            print(f"NOT AS WANTED: {problem}")
        return 1 if self.problems else 0


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--failovers", type=int, default=10)
    add("--kind", choices=KINDS + ["all"], default="kill")
    add("--server", help="always this one (default: by chance one that owns resources)")
    add("--topology", default="fig2-san")
    add("--sessions", type=int, default=4)
    add("--depth", type=int, default=16)
    add("--rate", help="requests/s for each target (default: as many as possible)")
    add("--seed", type=int, default=1)
    add("--pause", type=float, default=2, help="at most so many seconds before each failure")
    add("--settle", type=float, default=1, help="seconds of load after each take-over")
    add("--takeover-seconds", type=float, default=15, help="time for the resources to move")
    add("--max-stall-ms", type=float, default=5000)
    add("--output", help="file for the results as JSON")
    add("--keep", action="store_true", help="leave the lab up at the end")
    builds = sorted(glob.glob(f"{HERE}/.build/*/dsr-lab"), key=os.path.getmtime)
    add("--programs", default=os.path.dirname(builds[-1]) if builds else None,
        help="folder of dsr-lab, dsrd and dsrctl (default: the newest build)")
    options = parser.parse_args()
    if options.programs is None:
        parser.error("there is no build: swift build -c release, or --programs")
    if options.failovers < 1:
        parser.error("--failovers is at least 1")
    return options


def main():
    options = parse()
    if os.geteuid() != 0:
        print("failover-loop: needs root, for the network namespaces of the lab", file=sys.stderr)
        return 2
    # The lab goes down also when it is ended early.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        return Loop(options).run()
    except (Failure, subprocess.TimeoutExpired) as failure:
        print(f"failover-loop: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
