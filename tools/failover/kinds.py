"""What the loop does to a lab in each round, what has to come of it, and how it is mended.

A kind names a victim, breaks it, says when that is over and what may not be so then, and mends it. Unless it says
otherwise the loop moves the resources back by itself.
"""
import re
import time

from .lab import Failure, wait_for


class ServerFailure:
    """One of three servers fails, or is drained: the others take what it had."""
    topology = "fig2-san"
    sessions = 4

    def __init__(self, name):
        self.name = name

    def configure(self, text):
        return text

    def prepare(self, lab):
        """The lab is up."""

    def choose(self, owners, chance, wanted):
        return wanted or chance.choice(sorted(set(owners.values())))

    def affected(self, owners, victim):
        """Resources that have to leave."""
        return sorted(name for name, owner in owners.items() if owner == victim)

    def fail(self, lab, victim):
        """Gives the moment from which the take-over counts."""
        start = time.monotonic()
        if self.name == "drain":
            lab.control("server", "drain", victim)
        elif self.name in ("kill", "freeze"):
            lab.service(victim, self.name)
        else:
            lab.lab("link", lab.prefix, victim, "down" if self.name == "link" else "remove")
        return start

    def is_over(self, owners, victim, mine):
        return all(owners.get(name) not in (victim, None) for name in mine)

    def wrong(self, before, after, victim, mine):
        """Resources that are where they should not be, when it is over."""
        return [f"{name} went from {before[name]} to {after.get(name)}, which nothing has asked for"
                for name in before if name not in mine and before[name] != after.get(name)]

    def mend(self, lab, victim):
        """Gives what was not as wanted."""
        if self.name == "drain":
            lab.control("server", "undrain", victim)
            return []
        if self.name in ("link", "remove"):
            lab.lab("link", lab.prefix, victim, "up" if self.name == "link" else "add")
        # It may have been fenced meanwhile.
        status = lab.service(victim, "status")
        if self.name == "kill" or "ENDED" in status:
            lab.service(victim, "start")
        elif self.name == "freeze" or "frozen" in status:
            lab.service(victim, "thaw")
        return []


class SpareFailure(ServerFailure):
    """A spare stands in for a server that is killed, and gives everything back by itself."""
    topology = "fig2-san-spare"
    spare = "server4"
    # A server that fails for the third time within about a minute gets nothing back for two.
    rest = 55

    def __init__(self):
        super().__init__("kill")
        self.name = "spare"
        self.failed = {}

    def choose(self, owners, chance, wanted):
        """The one that was well for longest; servers in turn."""
        names = [wanted] if wanted else sorted(set(owners.values()))
        name = min(names, key=lambda name: self.failed.get(name, 0))
        time.sleep(max(0, self.failed.get(name, -self.rest) + self.rest - time.monotonic()))
        return name

    def fail(self, lab, victim):
        self.failed[victim] = start = time.monotonic()
        lab.service(victim, "kill")
        return start

    def is_over(self, owners, victim, mine):
        return all(owners.get(name) == self.spare for name in mine)

    def mend(self, lab, victim):
        lab.service(victim, "start")
        # What the others have was not touched, so that nothing is left to do when it has its own again.
        if wait_for(30, lambda: self.spare not in lab.owners().values()) is None:
            return [f"{self.spare} does not give back what it has"]
        return []


class ControllerFailure(ServerFailure):
    """A RAID controller fails: its volumes leave some servers and appear at others, whose agents say so."""
    topology = "fig3-raid"
    sessions = 6

    def __init__(self):
        super().__init__("controller")

    def prepare(self, lab):
        with open(f"{lab.topology}/topology.yaml") as file:
            text = file.read()
        self.units = {name: re.split(r",\s*", units) for name, units in
                      re.findall(r"name: (\w+), units: \[(.*?)\]", text)}
        self.paths = re.findall(r"server: (\w+), controller: (\w+)", text)
        if len(self.units) != 2 or not self.paths:
            raise Failure(f"{lab.topology} has no two controllers with paths")

    def attached(self, controller):
        return {server for server, other in self.paths if other == controller}

    def cut_off(self, controller):
        """Servers that reach no volume without it."""
        return {server for server, _ in self.paths} - {
            server for server, other in self.paths if other != controller}

    def choose(self, owners, chance, wanted):
        return wanted or chance.choice(sorted(self.units))

    def affected(self, owners, victim):
        return sorted(name for name, owner in owners.items() if owner in self.cut_off(victim))

    def fail(self, lab, victim):
        start = time.monotonic()
        lab.lab("controller", lab.prefix, victim, "fail")
        return start

    def is_over(self, owners, victim, mine):
        return not self.cut_off(victim) & set(owners.values())

    def mend(self, lab, victim):
        """Volumes go back to their controller, and leave servers without a path to it: as announced."""
        # A server without any volume closes connections at once. When its health is asked for before its agent has
        # said where the volumes are, it has failed, and was fenced: nothing of it runs any more.
        for server in self.cut_off(victim):
            for service in ("tgtd", "agent"):
                if "ENDED" in lab.service(server, "status", service):
                    lab.service(server, "start", service)
        lab.lab("controller", lab.prefix, victim, "repair")

        def lost():
            owners = lab.owners()
            return [f"{name} at {owners[name]}" for name in self.units[victim]
                    if owners[name] not in self.attached(victim)]

        if wait_for(15, lambda: not lost()) is None:
            return [f"{victim} works again, but {', '.join(lost())}"]
        return []


class AddedServer(ServerFailure):
    """A server joins, takes its share of the load, is drained and leaves again."""
    topology = "fig2-san"
    # Every resource has load, so that a share of it can move.
    sessions = 6
    server = "server3"
    addresses = ["10.20.0.13", "fd20::13"]

    def __init__(self):
        super().__init__("add")

    def configure(self, text):
        """The configuration does not know the third server, though it runs; loads are even otherwise."""
        text = re.sub(rf"  - name: {self.server}\n(    .*\n)+", "", text)
        text = text.replace(f", {self.server}]", "]")
        for name, server in (("r5", "server1"), ("r6", "server2")):
            text = re.sub(rf"(name: {name}\n(?:    .*\n)*?    assigned: ){self.server}",
                          rf"\g<1>{server}", text)
        if self.server in text:
            raise Failure(f"{self.server} is still in the configuration")
        return text + "\nbalance: {half_life_ms: 500, rest_s: 0}\n"

    def choose(self, owners, chance, wanted):
        return self.server

    def affected(self, owners, victim):
        return []

    def fail(self, lab, victim):
        lab.control("server", "add", victim, "--address", *self.addresses, "--resource",
                    *sorted(lab.owners()), "--wait")
        plan = {}

        def is_planned():
            plan.update({"obstacle": None}, **lab.json("balance", "plan"))
            return plan["moves"] and not plan["obstacle"]

        if wait_for(30, is_planned) is None:
            raise Failure(f"no load is balanced onto {victim}: {plan}")
        start = time.monotonic()
        lab.control("balance", "apply", "--wait")
        return start

    def is_over(self, owners, victim, mine):
        return victim in owners.values()

    def wrong(self, before, after, victim, mine):
        """Of six equal loads each of three servers has two; one more or less is within the noise."""
        counts = {server: list(after.values()).count(server) for server in set(after.values())}
        return [] if 1 <= counts[victim] <= 3 else [f"{victim} has {counts[victim]} resources"]

    def mend(self, lab, victim):
        lab.control("server", "drain", victim, "--wait")
        if victim in lab.owners().values():
            return [f"{victim} is drained and has resources"]
        if not wait_for(5, lambda: victim not in [server for _, server in lab.sessions()]):
            return [f"{victim} is drained and has sessions"]
        lab.control("server", "remove", victim, "--wait")
        return [f"{victim} is removed and there"] if victim in lab.servers() else []


SERVER_FAILURES = ["kill", "freeze", "link", "remove", "drain"]
KINDS = {
    **{name: lambda name=name: ServerFailure(name) for name in SERVER_FAILURES},
    "controller": ControllerFailure, "spare": SpareFailure, "add": AddedServer,
}
