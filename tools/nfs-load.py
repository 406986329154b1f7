#!/usr/bin/env python3
"""A client of NFS version 3, and 2, that verifies what it is told, over UDP and TCP.

    tools/nfs-load.py verify --server 10.10.0.100 --export /e1 --export /e2 --transport udp --seconds 60

Modes:

    verify  reads and writes of stamped blocks. Each flow (UDP) or connection (TCP) owns a file, fills it, and then
            has --depth requests of 4 KiB to 32 KiB (UDP) or 1 MiB (TCP) in flight. Every block of 4 KiB says of which
            export, file, place and write it is; a READ must bring the newest acknowledged write of each block.
            COMMITs are made, and blocks whose write verifier has changed are written again, as clients must
    names   creates (unchecked, guarded, exclusive), renames, removes, mkdir, rmdir, symlink, link ... by workers in
            directories of their own. The client knows the one right result of every operation: any other status,
            and so an operation that was lost or done twice, is an error. At the end READDIR and READDIRPLUS must list
            what the client's model has
    perf    requests per second, p50 and p99 of GETATTR, READ or NULL from --sockets with --depth each
    walk    every procedure once, with results that are known: lists, data of odd sizes, a copy of --mib, a directory
            of --entries listed both ways, links; exports at once over the one connection. With --version 2 those
            of NFS version 2
    locks   locks (NLM) of three owners on two hosts of which none may get in another's way: conflicts, shared ones,
            parts, waiting, cancelling. With --hold they are held for so long, while others try to get them all the
            time and wait for them. Port 111 of the client's own addresses must be free
    handles the handles of all that is there, and how files begin; changes nothing

Over UDP a call without an answer goes out again after --rto, under its XID; the wait doubles up to --rto-max.
Over TCP a connection that is closed is an error; with --reconnect the calls that wait go out again over a new
one, and it stays an error. A status of JUKEBOX is counted, and the call made again. Ports are asked of the
portmapper unless --port and --mount-port are given.

Errors go to standard error with their time; the last thing on standard output is one JSON object. SIGTERM
and SIGINT end the load early, with the JSON. Exit status: 0 when all was right, 1 when not, 2 for bad use.
"""
import argparse
import sys

sys.dont_write_bytecode = True
from nfsload.handles import HandlesLoad  # noqa: E402
from nfsload.load import SetupError  # noqa: E402
from nfsload.locks import LocksLoad  # noqa: E402
from nfsload.names import NamesLoad  # noqa: E402
from nfsload.perf import PerfLoad  # noqa: E402
from nfsload.results import write  # noqa: E402
from nfsload.verify import VerifyLoad  # noqa: E402
from nfsload.walk import WalkLoad  # noqa: E402
from nfsload.walk2 import Walk2Load  # noqa: E402

MODES = {
    "verify": VerifyLoad, "names": NamesLoad, "perf": PerfLoad, "walk": WalkLoad, "handles": HandlesLoad,
    "locks": LocksLoad}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("mode", choices=MODES)
    add("--server", required=True, help="address")
    add("--export", action="append", required=True, metavar="PATH", help="repeat")
    add("--transport", choices=["udp", "tcp"], default="tcp")
    add("--version", type=int, choices=[2, 3], default=3, help="of NFS (default 3); 2 for walk alone")
    add("--port", type=int, help="of NFS (default: the portmapper's answer)")
    add("--mount-port", type=int, help="of MOUNT (default: the portmapper's answer)")
    add("--from-root", action="store_true", help="mount / and reach the exports by names below it")
    add("--seconds", type=float, default=10, help="of load; walk: limit of each step (default 10; walk 300)")
    add("--seed", type=int, default=1, help="chance, and names of files")
    add("--depth", type=int, default=8, help="requests in flight of each flow")
    add("--flows", type=int, help="verify: in all, exports in turn (default: one for each export); "
                                  "names: connections that workers share (default: one for each)")
    add("--rate", help="requests/s for each export; verify: or a list in their order")
    add("--keep", action="store_true", help="leave the files there")
    group = parser.add_argument_group("verify")
    add = group.add_argument
    add("--read-share", type=float, default=0.5)
    add("--stable-share", type=float, default=0.0, help="of writes that are FILE_SYNC")
    add("--smallest", type=int, default=4096, help="octets of a request")
    add("--largest", type=int,
        help="octets of a request, of walk too (default 32768 over UDP, 1048576 over TCP; version 2: 8192)")
    add("--range-mib", type=int, default=8, help="size of each flow's file")
    add("--use", action="append", default=[], metavar="PATH",
        help="flows of an export use these files that are there, in turn, and leave them there")
    add("--stray", type=float, metavar="SECONDS",
        help="about so often each flow also asks for another export, a name and a listing")
    add("--final-verify", action="store_true", help="read all files back at the end")
    add("--max-stall-ms", type=float, help="not ok when a request took longer")
    group = parser.add_argument_group("names")
    add = group.add_argument
    add("--workers", type=int, default=8)
    add("--operations", type=int, help="in all; --seconds is the limit all the same")
    add("--history", metavar="FILE", help="a line of JSON for each operation")
    group = parser.add_argument_group("perf")
    add = group.add_argument
    add("--procedure", choices=["getattr", "read", "null"], default="getattr")
    add("--size", type=int, default=4096, help="octets of a READ")
    add("--sockets", type=int, default=4)
    add("--processes", type=int, default=1, help="that the sockets are shared among")
    add("--files", type=int, default=1, help="whose handles are used in turn")
    group = parser.add_argument_group("walk")
    add = group.add_argument
    add("--entries", type=int, default=1000)
    add("--mib", type=int, default=16)
    add("--local", action="append", default=[], metavar="EXPORT=DIRECTORY",
        help="the server's own directory, to compare with")
    group = parser.add_argument_group("locks")
    add = group.add_argument
    add("--hold", type=float, default=0, metavar="SECONDS", help="hold locks for so long")
    group = parser.add_argument_group("calls")
    add = group.add_argument
    add("--rto", type=float, default=0.5, help="s until a call over UDP is sent again")
    add("--rto-max", type=float, default=4.0, help="the wait doubles up to this")
    add("--call-seconds", type=float, default=60, help="a call without an answer is an error then")
    add("--reconnect", action="store_true", help="make new connections in place of closed ones")
    add("--rpc-fragment", type=int, default=0, help="octets of the fragments of a record over TCP")
    add("--source", help="own address")
    add("--reserved-port", action="store_true", help="send from a port below 1024")
    add("--uid", type=int, default=0)
    add("--gid", type=int, default=0)
    add("--groups", type=int, default=0, help="number of further groups, 0 to 16")
    add("--machine", default="nfs-load", help="name in the credential")
    group = parser.add_argument_group("times and output")
    add = group.add_argument
    add("--setup-seconds", type=float, default=60)
    add("--drain-seconds", type=float, default=30, help="for the last answers")
    add("--live", action="store_true", help="a line each second on standard error")
    add("--output", help="file for the JSON too")
    options = parser.parse_args()
    if options.mode == "walk" and options.seconds == 10:
        options.seconds = 300
    for name in ("depth", "workers", "sockets", "processes", "files", "range_mib"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is at least 1")
    if not (0 <= options.read_share <= 1 and 0 <= options.stable_share <= 1 and options.seconds > 0):
        parser.error("shares are 0 to 1, --seconds is more than 0")
    if options.version == 2 and options.mode != "walk":
        parser.error("--version 2 is for walk")
    if options.mode == "walk" and options.largest is not None and not 1024 <= options.largest <= 1 << 20:
        parser.error("--largest of walk is 1024 to 1048576")
    if not 0 <= options.groups <= 16:
        parser.error("--groups is 0 to 16")
    if options.processes > options.sockets or options.depth > 4000:
        parser.error("--processes is at most --sockets, --depth at most 4000")
    if options.procedure == "read" and not 8 <= options.size <= 32768:
        parser.error("--size is 8 to 32768")
    if any("=" not in entry for entry in options.local):
        parser.error("--local is EXPORT=DIRECTORY")
    try:
        rates = [float(rate) for rate in str(options.rate or 0).split(",")]
    except ValueError:
        parser.error("--rate is a number or a list of numbers")
    if len(rates) > 1 and options.mode != "verify":
        parser.error("--rate is one number, but for verify")
    options.stderr = sys.stderr
    return options


def main():
    options = parse()
    try:
        load = (Walk2Load if options.version == 2 else MODES[options.mode])(options)
    except (SetupError, OSError) as error:
        print(f"nfs-load: {error}", file=sys.stderr)
        return 2
    try:
        load.run()
    except SetupError as error:
        load.results.error("setup", options.server, str(error))
    report = load.report()
    write(report, options.output)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
