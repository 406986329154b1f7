#!/usr/bin/env python3
"""Fails servers again and again under a load that verifies every octet, and says what clients saw of it.

    sudo tools/failover-loop.py --failovers 50 --kind kill

A lab comes up once and the load runs without pause: sessions over as many of r1 to r6, at least one of each
server, 16 requests in flight each. Every round waits a random while, breaks something, waits until the
resources are where they should be then and every session is at its resource's server, lets the load go on,
mends what is broken and sees that all is back, so that every round starts from the same assignment. Kinds:

    kill    SIGKILL of tgtd             link    the server's cable is pulled
    freeze  SIGSTOP of tgtd             remove  the switch's port is deleted
    drain   dsrctl server drain         all     each of these in turn

    controller  lab fig3-raid: a RAID controller fails; resources follow the announcements of the agents
    spare       lab fig2-san-spare: SIGKILL; the spare takes everything and gives it back by itself. Servers
                in turn, each at most once in 55 s: one that fails more often is not given anything back
    add         a server joins (server add), gets load (balance apply), is drained and removed

Wanted: no error, no closed connection, no wrong octet, no resource or session left behind, nothing moved
without a reason, and no request of a resource that moved that takes longer than --max-stall-ms; the longest of the others
is told beside it: what this machine does to them without any reason. A line for each round (and the events,
when it is not as wanted), then a summary with the median and the longest stall. "over after" counts from the
failure; with add, from balance apply. Exit status 1 when something is not as wanted, 2 when it cannot be run.
"""
import argparse
import glob
import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
from failover.kinds import KINDS  # noqa: E402
from failover.lab import HERE, Failure  # noqa: E402
from failover.loop import Loop  # noqa: E402


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--failovers", type=int, default=10)
    add("--kind", choices=[*KINDS, "all"], default="kill")
    add("--victim", "--server",
        help="always this server or controller (default: by chance one that has resources)")
    add("--topology", help="another one than the kind's")
    add("--sessions", type=int, help="default: 4; 6 with controller and add")
    add("--one-session", action="store_true", help="to the target that has all resources as units")
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
