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

With --volumes, in lab fig2-volumes: one session over a resource and all volumes. Servers fail in turn (kill, freeze,
link, remove) and are mended when the mirror's disk there is out of service; a round ends when it has got what it has
missed. Units are r and their number. At the end the disks of the mirror are compared.

Wanted: no error, no closed connection, no wrong octet, no resource or session left behind, nothing moved
without a reason, and no request of a resource that moved that takes longer than --max-stall-ms; the longest of the others
is told beside it: what this machine does to them without any reason. A line for each round (and the events,
when it is not as wanted), then a summary with the median and the longest stall. "over after" counts from the
failure; with add, from balance apply. Exit status 1 when something is not as wanted, 2 when it cannot be run.
"""
import argparse
import filecmp
import glob
import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
from failover.kinds import KINDS, ServerFailure  # noqa: E402
from failover.lab import HERE, Failure, Lab, wait_for  # noqa: E402
from failover.load import Load  # noqa: E402
from failover.loop import Loop  # noqa: E402


class VolumeFailure(ServerFailure):
    """Servers fail in turn: resources that others hold go there, a mirror's disk leaves service and returns."""
    topology = "fig2-volumes"
    kinds = ["kill", "freeze", "link", "remove"]

    def prepare(self, lab):
        self.lab = lab
        self.rounds = 0
        # Units as the load calls them, by what they are made of; r1 is its own.
        self.units = {"r1": "r1"}
        for volume in self.volumes():
            for member in volume["members"]:
                self.units[member["resource"]] = f"r{volume['unit']}"
        self.movable = {entry["name"] for entry in lab.json("resource", "list")
                        if len(entry["servers"]) > 1}

    def volumes(self):
        return self.lab.json("volume", "list")

    def mirrors(self):
        return [volume for volume in self.volumes() if volume["kind"] == "mirror"]

    def is_whole(self):
        return all(member["state"] == "in_service"
                   for volume in self.volumes() for member in volume["members"])

    def is_settled(self):
        """Nothing is on its way to any disk of a mirror."""
        return self.is_whole() and all(
            volume.get("changed_regions") == 0 for volume in self.mirrors())

    def choose(self, owners, chance, wanted):
        names = sorted(set(owners.values()))
        self.rounds += 1
        return wanted or names[(self.rounds - 1) % len(names)]

    def affected(self, owners, victim):
        """Resources, and the units that wait for them."""
        names = super().affected(owners, victim)
        return sorted({*names, *(self.units[name] for name in names)})

    def is_over(self, owners, victim, mine):
        stay = [name for name in mine if name in self.movable and owners.get(name) in (victim, None)]
        return not stay and all(
            member["state"] == "out" for volume in self.mirrors() for member in volume["members"]
            if member["resource"] in mine)

    def mend(self, lab, victim):
        problems = super().mend(lab, victim)
        if wait_for(30, self.is_whole) is None:
            problems.append("; ".join(
                f"{member['resource']} is {member['state']}: {member.get('reason')}"
                for volume in self.volumes() for member in volume["members"]
                if member["state"] != "in_service"))
        return problems

    def differences(self):
        """What the disks of mirrors have that is not the same. The load has ended."""
        if wait_for(15, self.is_settled) is None:
            return [f"the mirror does not come to rest: {self.mirrors()}"]
        problems = []
        for volume in self.mirrors():
            first, *others = (f"{self.lab.state}/san/{member['resource']}.img"
                              for member in volume["members"])
            problems += [f"{first} and {other} differ" for other in others
                         if not filecmp.cmp(first, other, shallow=False)]
        return problems


class VolumeLoop(Loop):
    def __init__(self, options):
        super().__init__(options)
        self.kinds = [VolumeFailure(options.kind)]

    def run(self):
        options = self.options
        kind = self.kinds[0]
        with Lab(options, options.topology or kind.topology, kind.configure) as lab:
            kind.prepare(lab)
            home = lab.owners()
            load = Load(lab, options, dict.fromkeys(kind.units.values()))
            try:
                # A new mirror is copied first.
                if wait_for(30, kind.is_whole) is None:
                    raise Failure(f"the volumes are not whole: {kind.volumes()}")
                for number in range(1, options.failovers + 1):
                    self.round(number, lab, load, home)
                    if not load.is_alive:
                        self.problems.append("the load ended: its session is closed")
                        break
                result = load.end()
            finally:
                load.clean()
            self.problems += kind.differences()
            events = lab.events()
        return self.summary(result, events)


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
    add("--volumes", action="store_true", help="lab fig2-volumes, one session; see above")
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
    if options.volumes:
        options.one_session = True
        if options.kind not in VolumeFailure.kinds:
            parser.error(f"--volumes goes with --kind {', '.join(VolumeFailure.kinds)}")
    return options


def main():
    options = parse()
    if os.geteuid() != 0:
        print("failover-loop: needs root, for the network namespaces of the lab", file=sys.stderr)
        return 2
    # The lab goes down also when it is ended early.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        return (VolumeLoop if options.volumes else Loop)(options).run()
    except (Failure, subprocess.TimeoutExpired) as failure:
        print(f"failover-loop: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
