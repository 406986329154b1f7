"""The rounds of the loop and what is told of them."""
import json
import random
import statistics
import time

from .kinds import KINDS, SERVER_FAILURES
from .lab import Failure, Lab, wait_for
from .load import Load

# Events of sessions that come and go say nothing of a round that went wrong.
QUIET = ("session_opened", "session_spliced", "session_unspliced", "login_accepted")


class Loop:
    def __init__(self, options):
        self.options = options
        names = SERVER_FAILURES if options.kind == "all" else [options.kind]
        self.kinds = [KINDS[name]() for name in names]
        self.random = random.Random(options.seed)
        # Longest requests, ms: of resources that moved, and of those that had no reason to notice anything.
        self.stalls = []
        self.others = []
        self.takeovers = []
        self.problems = []

    def round(self, number, lab, load, home):
        options = self.options
        kind = self.kinds[(number - 1) % len(self.kinds)]
        time.sleep(self.random.uniform(0.5, 0.5 + options.pause))
        before = lab.owners()
        victim = kind.choose(before, self.random, options.victim)
        mine = kind.affected(before, victim)
        event = lab.last_event()
        errors = len(load.errors)
        load.take_worst()
        start = kind.fail(lab, victim)
        is_over = wait_for(options.takeover_seconds,
                           lambda: kind.is_over(lab.owners(), victim, mine)) is not None
        took = (time.monotonic() - start) * 1000 if is_over else None
        after = lab.owners()
        problems = []
        if is_over:
            problems += kind.wrong(before, after, victim, mine)
        else:
            left = [name for name in mine if after.get(name) == victim] or [victim]
            problems.append(f"{','.join(left)} not over in {options.takeover_seconds} s: {after}")
        time.sleep(options.settle)
        problems += self.sessions_follow(lab)
        worst = load.take_worst()
        problems += kind.mend(lab, victim)
        problems += self.restore(lab, home)
        problems += self.sessions_follow(lab)
        if len(load.errors) > errors:
            problems.append(f"{len(load.errors) - errors} errors: {load.errors[errors]}")
        for name, value in load.take_worst().items():
            worst[name] = max(worst.get(name, 0), value)
        moved_names = {name for name in before if after.get(name) != before[name]} | {*mine}
        stall = max((value for name, value in worst.items() if name in moved_names), default=0)
        others = max((value for name, value in worst.items() if name not in moved_names), default=0)
        if stall > options.max_stall_ms:
            problems.append(f"stall of {stall:.0f} ms")
        self.stalls.append(stall)
        self.others.append(others)
        if is_over:
            self.takeovers.append(took)
        moved = " ".join(f"{name}->{after.get(name)}" for name in before
                         if after.get(name) != before[name])
        duration = f"{took:7.0f} ms" if is_over else "      -   "
        print(f"{number:4} {kind.name:11}{victim:9} over after {duration}  stall {stall:7.0f} ms  others "
              f"{others:5.0f} ms  "
              f"{moved}  {'; '.join(problems) or 'ok'}"[:400], flush=True)
        self.problems += [f"round {number}: {problem}" for problem in problems]
        if problems:
            self.explain(lab, event)

    @staticmethod
    def sessions_follow(lab):
        """Each session is at the server of its resource."""
        def astray():
            owners = lab.owners()
            return [f"a session of {name} is at {server}" for name, server in lab.sessions()
                    if server != owners.get(name)]
        return [] if wait_for(5, lambda: not astray()) is not None else astray()

    @staticmethod
    def explain(lab, after):
        events = [event for event in lab.events(after) if event["kind"] not in QUIET]
        for event in events[-60:]:
            seconds, fraction = divmod(event["time_s"], 1)
            print(f"       {time.strftime('%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03} "
                  f"{event['kind']}: {event['message']} {event.get('details') or ''}", flush=True)

    def restore(self, lab, home):
        """The servers are healthy again and every resource where it was at first."""
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
        kind = self.kinds[0]
        topology = options.topology or kind.topology
        with Lab(options, topology, kind.configure) as lab:
            kind.prepare(lab)
            home = lab.owners()
            if None in home.values() or len(home) < 6:
                raise Failure(f"dsrctl resource list gives no assignment: {home}")
            options.sessions = options.sessions or kind.sessions
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
        if self.options.output:
            with open(self.options.output, "w") as file:
                json.dump({"load": result, "stalls_ms": self.stalls, "others_ms": self.others, "problems": self.problems,
                           "takeovers_ms": self.takeovers, "events": events}, file, indent=1)
        print(f"\n{len(self.stalls)} rounds; stall median {statistics.median(self.stalls):.0f} ms, "
              f"longest {max(self.stalls):.0f} ms (resources that did not move: median "
              f"{statistics.median(self.others):.0f} ms, longest {max(self.others):.0f} ms)"
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
