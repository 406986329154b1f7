#!/usr/bin/env python3
"""Moves a session out of the fast path and into it again, every 50 ms, while fio verifies every block.

    sudo tools/soak.py [SECONDS]        default: 60 for each of the four loops, about 5 minutes in all

The loops: IPv4 and IPv6, over perfect links and over links that drop, duplicate and reorder 0.3 % of the
packets each (both directions of every port). Wanted are, in 60 s, 400 completed pairs over perfect links
and 100 over bad ones; every octet right; one session from the first to the last second. A fifth run
transfers 1 GiB and compares the packets at the CPU ports with those at the network ports. Exit status 1
when something is not as wanted.
"""
import http.client
import json
import os
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 60
PREFIX = f"soak-{os.getpid()}"
FAULTS = "faults: {drop: 0.003, duplicate: 0.003, reorder: 0.003, seed: 7}"
INTERVAL = 0.05


class Connection(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def __init__(self, path):
        super().__init__("dsrd", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Lab:
    def __init__(self, programs, faulty=False):
        self.programs = programs
        self.state = f"/run/dsr-lab/{PREFIX}"
        command = [f"{programs}/dsr-lab", "up", "fig2-san", "--prefix", PREFIX]
        self.configuration = f"/tmp/{PREFIX}.yaml"
        with open(f"{HERE}/topologies/fig2-san/dsr.yaml") as file:
            text = file.read().replace("/run/dsr-lab/fig2-san", self.state)
        if faulty:
            for side in ("client", "storage"):
                text = text.replace(f"side: {side}}}", f"side: {side}, {FAULTS}}}")
            assert text.count("drop: 0.003") == 4, "faults for four ports"
        with open(self.configuration, "w") as file:
            file.write(text)
        command += ["--dsr-config", self.configuration]
        subprocess.run(command, check=True, cwd=HERE, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([f"{self.programs}/dsr-lab", "down", PREFIX], stdout=subprocess.DEVNULL)
        os.unlink(self.configuration)

    def call(self, method, path):
        connection = Connection(f"{self.state}/dsrd.sock")
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, json.loads(body) if body else None

    def export(self, resource, address):
        """A block device of the client, behind a real initiator; returns (process, URI)."""
        path = f"{self.state}/soak-nbd.sock"
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"{PREFIX}-client1", "qemu-nbd", "-f", "raw", "-t", "-k", path,
             f"iscsi://{address}/iqn.2026-01.lab.dsr:{resource}/1"])
        for _ in range(100):
            if os.path.exists(path):
                return process, f"nbd+unix:///?socket={path}"
            time.sleep(0.1)
        process.terminate()
        raise SystemExit("soak: qemu-nbd does not come up")


def fio(uri, *options):
    return subprocess.Popen(
        ["fio", "--name=soak", "--ioengine=nbd", f"--uri={uri}", "--output-format=json",
         "--iodepth=16", *options], stdout=subprocess.PIPE, text=True)


def result(process):
    text = process.communicate()[0]
    job = json.loads(text[text.index("{"):])["jobs"][0]
    stall = max(job[kind]["clat_ns"]["max"] for kind in ("read", "write")) / 1e6
    octets = job["read"]["io_bytes"] + job["write"]["io_bytes"]
    return job["error"] or process.returncode, stall, octets


def change(lab, identifier, verb, times, refusals):
    start = time.monotonic()
    status, answer = lab.call("POST", f"/sessions/{identifier}/{verb}")
    times.append((time.monotonic() - start) * 1000)
    if status == 200:
        return True
    text = f"{verb}: {answer}"
    refusals[text] = refusals.get(text, 0) + 1
    return False


def loop(programs, address, faulty):
    """One loop; returns whether all is as wanted."""
    with Lab(programs, faulty) as lab:
        server, uri = lab.export("r1", address)
        load = fio(
            uri, "--rw=randrw", "--bs=64k", "--size=64M", "--verify=crc32c",
            "--verify_backlog=64", "--verify_fatal=1", "--time_based", f"--runtime={SECONDS}")
        time.sleep(1)
        session = lab.call("GET", "/sessions")[1][0]
        pairs, times, refusals = 0, [], {}
        end = time.monotonic() + SECONDS - 1.5
        while time.monotonic() < end and load.poll() is None:
            begin = time.monotonic()
            if change(lab, session["id"], "unsplice", times, refusals):
                pairs += change(lab, session["id"], "splice", times, refusals)
            time.sleep(max(0, begin + INTERVAL - time.monotonic()))
        error, stall, octets = result(load)
        after = lab.call("GET", "/sessions")[1]
        same = [s["id"] for s in after] == [session["id"]]
        server.terminate()
        server.wait()
    times.sort()
    wanted = (100 if faulty else 400) * SECONDS / 60
    good = not error and same and pairs >= wanted
    print(
        f"{address:12} {'0.3 % faults' if faulty else 'perfect     '} {pairs:5} pairs "
        f"(wanted {wanted:.0f}), {sum(refusals.values())} given up, change of state median "
        f"{times[len(times) // 2]:.1f} max {times[-1]:.0f} ms, longest request {stall:.0f} ms, "
        f"{octets / 2**30:.1f} GiB verified, "
        f"{'no error' if not error else 'FIO ERROR'}, "
        f"{'same session' if same else 'SESSION LOST'}{'' if good else '  <-- NOT AS WANTED'}",
        flush=True)
    for text, count in refusals.items():
        print(f"    {count} x {text}")
    return good


def transfer(programs):
    """1 GiB in the fast path: share of the CPU ports, health checks included, in all packets."""
    def packets(lab, kind):
        ports = lab.call("GET", "/ports")[1]
        ports = [p for p in ports if (p["kind"] == "cpu") == kind]
        return [sum(p[what] + p[what.replace("rx", "tx")] for p in ports)
                for what in ("rx_packets", "rx_bytes")]

    with Lab(programs) as lab:
        server, uri = lab.export("r1", "10.10.0.100")
        # Blocks that were never written would not be transferred: the initiator asks for their state.
        result(fio(uri, "--rw=write", "--bs=256k", "--size=64M"))
        before = [packets(lab, kind) for kind in (False, True)]
        load = fio(uri, "--rw=read", "--bs=256k", "--size=64M", "--io_size=1G")
        error, _, octets = result(load)
        after = [packets(lab, kind) for kind in (False, True)]
        (network, octets_seen), (cpu, _) = [
            [new - old for new, old in zip(*pair)] for pair in zip(after, before)]
        server.terminate()
        server.wait()
    # Each octet is counted twice, where it comes in and where it goes out.
    good = not error and octets >= 2**30 and octets_seen > 2 * octets and cpu * 1000 < network
    print(
        f"transfer of {octets / 2**30:.2f} GiB: {network} packets with {octets_seen / 2**30:.2f} GiB at the "
        f"network ports, {cpu} packets at the "
        f"CPU ports ({100 * cpu / network:.3f} %, at most 0.1 wanted)"
        f"{'' if good else '  <-- NOT AS WANTED'}")
    return good


def main():
    if os.geteuid() != 0:
        raise SystemExit("soak: needs root, for the network namespaces of the lab")
    programs = os.environ.get("BIN") or f"{HERE}/.build/release"
    results = [
        loop(programs, address, faulty)
        for faulty in (False, True) for address in ("10.10.0.100", "[fd10::100]")]
    results.append(transfer(programs))
    sys.exit(0 if all(results) else 1)


main()
