#!/bin/bash
# Records the captures of Tests/DataPlaneTests/Captures anew: what a client of NFS and the redirector say to each
# other, at the client's device. Versions 3 and 2, over UDP and TCP; and version 3 in datagrams that are fragments.
#
#   sudo tools/record-nfs-captures.sh [FOLDER]     default: Tests/DataPlaneTests/Captures
#
# DSR_LAB: the dsr-lab to use, with dsrd beside it (default: the newest build).
#
# Each is a short walk of tools/nfs-load.py over one export: every procedure with a right and most with a wrong
# outcome, requests of 1 KiB at most (fragments: 8 KiB). Servers are nfs-ganesha and tools/nfs2-server.py.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 2
folder=${1:-Tests/DataPlaneTests/Captures}

fail() { echo "record-nfs-captures: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "needs root, for the network namespaces of the lab"
command -v tcpdump >/dev/null || fail "tcpdump is missing: apt-get install tcpdump"
lab=${DSR_LAB:-$(ls -t .build/release/dsr-lab .build/debug/dsr-lab 2>/dev/null | head -1)}
[ -x "$lab" ] || fail "there is no dsr-lab: build it (swift build), or name it in DSR_LAB"
mkdir -p "$folder" || fail "no folder $folder"
prefix=captures-$$
temporary=$(mktemp -d /tmp/dsr-captures.XXXXXX) || fail "no temporary folder"
trap '"$lab" down $prefix >/dev/null 2>&1; rm -rf "$temporary"' EXIT
trap 'exit 130' INT TERM

record() { # NAME OPTION...
    local name=$1 file="$temporary/$1.pcap" log="$temporary/$1.log" capturing octets
    # Not as another user: the file would be closed to it.
    "$lab" exec $prefix client1 -- tcpdump -i eth0 -s 0 -U --immediate-mode -B 16384 -Z root -w "$file" \
        "ip and host 10.10.0.100 and (tcp or udp)" 2>"$log" &
    capturing=$!
    for _ in $(seq 100); do grep -q "listening on" "$log" && break; sleep 0.1; done
    grep -q "listening on" "$log" || fail "tcpdump does not start: $(cat "$log")"
    "$lab" exec $prefix client1 -- tools/nfs-load.py walk --server 10.10.0.100 --entries 12 \
        --mib 0 "${@:2}" >"$temporary/$name.json" || fail "$name: the walk failed: $(cat "$temporary/$name.json")"
    sleep 0.5
    kill $capturing
    wait $capturing
    grep -q "^0 packets dropped by kernel" "$log" || fail "$name has holes: $(cat "$log")"
    octets=$(stat -c %s "$file")
    [ "$octets" -lt 300000 ] || fail "$name is too large: $octets octets"
    mv "$file" "$folder/$name.pcap" || fail "$name cannot be written"
    echo "$folder/$name.pcap: $octets octets"
}

up() { "$lab" up "topologies/$1" --prefix $prefix >/dev/null || fail "lab $1 does not come up"; }
down() { "$lab" down $prefix >/dev/null || fail "the lab does not go down"; }

up fig1-nas
record nfs3-udp --export /n1 --transport udp --largest 1024
record nfs3-udp-fragments --export /n1 --transport udp --largest 8192
record nfs3-tcp --export /n1 --transport tcp --largest 1024
down
up fig1-nas2
record nfs2-udp --version 2 --export /n1 --transport udp --largest 1024
record nfs2-tcp --version 2 --export /n1 --transport tcp --largest 1024
down
