#!/usr/bin/env python3
"""A server of NFS version 2 (RFC 1094) over UDP and TCP: as small as one can be that serves real directories.

    tools/nfs2-server.py --export 1:/vol1=/srv/vol1 --portmapper

It knows MOUNT version 1 and all procedures of NFS version 2, and answers other versions with PROG_MISMATCH. Handles
consist of the export's number and one that the export gives its files in the order in which it meets them: servers
with the same number give equal handles for different files. What has which number is kept beside the directory, in
DIRECTORY.numbers. Who calls does not matter: everybody may do everything. It says "serving" when it listens.
"""
import argparse
import sys

sys.dont_write_bytecode = True
from nfsload.files2 import Export, Files  # noqa: E402
from nfsload.server2 import MOUNT, NFS, PORTMAPPER, Programs, Server  # noqa: E402


def export(text):
    head, _, directory = text.partition("=")
    number, _, path = head.partition(":")
    if not number.isdigit() or not 1 <= int(number) <= 0xFFFF or not path.startswith("/") or not directory:
        raise argparse.ArgumentTypeError("an export is NUMBER:/PATH=DIRECTORY, the number 1 to 65535")
    return int(number), path, directory


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--export", type=export, action="append", required=True, metavar="NUMBER:PATH=DIRECTORY",
        help="repeat; numbers differ")
    parser.add_argument("--address", default="0.0.0.0", help="to listen at (default: all of IPv4)")
    parser.add_argument("--port", type=int, default=2049, help="of NFS (default 2049)")
    parser.add_argument("--mount-port", type=int, default=20048, help="of MOUNT (default 20048)")
    parser.add_argument("--portmapper", action="store_true", help="answer port 111 too")
    options = parser.parse_args()
    if len({number for number, _, _ in options.export}) < len(options.export):
        parser.error("two exports have one number")
    ports = {NFS: options.port, MOUNT: options.mount_port}
    if options.portmapper:
        ports[PORTMAPPER] = 111
    server = Server(options.address, Programs(Files([Export(*each) for each in options.export]), ports))
    print("serving", flush=True)
    server.run()


if __name__ == "__main__":
    main()
