#!/bin/bash
# The main job as a demonstration, in less than a minute: a real initiator, one virtual address, three real
# servers, and a session that moves between the redirector's relay and its fast path, and from server to server
# (one is killed, one is drained) while data is written and verified.
#   usage: demo.sh DIRECTORY-OF-THE-PROGRAMS
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
[ "$(id -u)" = 0 ] || { echo "The demonstration needs root: it makes network namespaces." >&2; exit 1; }
work=$(mktemp -d)
lab=(--state "$work/lab" --prefix dsr-demo)
nbd=""
fio=""

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }

dsrctl() { show "dsrctl $*"; quiet "$@"; }
quiet() { ip netns exec dsr-demo-dsr1 "$bin/dsrctl" --socket "$socket" "$@"; }
service() { show "dsr-lab service fig2-san $*"; "$bin/dsr-lab" service dsr-demo "$@" --state "$work/lab"; }
client() { show "$*"; ip netns exec dsr-demo-client1 "$@"; }
fail() { echo "$*" >&2; exit 1; }
# A field of an entry of a listing.
field() { python3 -c 'import json,sys; print(json.load(sys.stdin)[int(sys.argv[1])][sys.argv[2]])' "$@"; }
last_event() { quiet events | tail -1 | awk '{print $1}'; }
is_over() {
    quiet events --after "$after" | grep failover_finished >/dev/null &&
        [ "$(quiet --json session list | field 0 state)" = spliced ]
}
is_up() { [ "$(quiet --json server list | field 1 state)" = up ]; }
wait_for() {
    for attempt in $(seq 200); do "$@" && return; sleep 0.1; done
    fail "not so after 20 s: $*"
}
cleanup() {
    status=$?
    if [ -n "$fio" ]; then kill "$fio" 2>/dev/null && wait "$fio" 2>/dev/null || true; fi
    if [ -n "$nbd" ]; then kill "$nbd" 2>/dev/null && wait "$nbd" 2>/dev/null || true; fi
    "$bin/dsr-lab" down dsr-demo --state "$work/lab" >/dev/null 2>&1 || true
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT

say "A lab: client1, the redirector dsr1 and three iSCSI servers that share six disks (a SAN)"
show "dsr-lab up fig2-san"
"$bin/dsr-lab" up fig2-san "${lab[@]}"
socket=$work/lab/dsrd.sock

say "The client asks one virtual address for its disks; the redirector answers, no server is asked"
client iscsi-ls iscsi://10.10.0.100

say "64 MiB of noise written to r3 through the virtual address and read back"
head -c $((64 << 20)) /dev/urandom >"$work/noise"
client qemu-img convert -n -f raw -O raw "$work/noise" iscsi://10.10.0.100/iqn.2026-01.lab.dsr:r3/1
client qemu-img convert -f raw -O raw iscsi://10.10.0.100/iqn.2026-01.lab.dsr:r3/1 "$work/back"
cmp "$work/noise" "$work/back"
echo "identical"

say "A long session: fio with verification, on r4"
ip netns exec dsr-demo-client1 qemu-nbd -f raw -t -k "$work/nbd" \
    iscsi://10.10.0.100/iqn.2026-01.lab.dsr:r4/1 & nbd=$!
for attempt in $(seq 50); do [ -S "$work/nbd" ] && break; sleep 0.1; done
show "fio --rw=randrw --verify=crc32c ... (in the background, until the end)"
fio --name=demo --ioengine=nbd --uri="nbd+unix:///?socket=$work/nbd" --rw=randrw --bs=64k --size=64M \
    --iodepth=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime=300 \
    >"$work/fio.log" 2>&1 & fio=$!
sleep 2
dsrctl session list
id=$(quiet --json session list | field 0 id)

say "Its packets pass from port to port; the CPU ports stay quiet"
dsrctl port list
show "dsrctl flow list | grep splice"
quiet flow list | grep splice

say "Out of the fast path and in again, twenty times, while fio verifies every block"
for pair in $(seq 20); do
    for verb in unsplice splice; do quiet session $verb "$id" >/dev/null; done
done
dsrctl session show "$id"

say "The server that serves r4 is killed (SIGKILL), while fio goes on"
after=$(last_event)
service server2 kill
wait_for is_over
dsrctl events --after "$after"

say "Where r4 is now: the same session, the same connection of the client, another server"
dsrctl resource list
dsrctl session list
quiet session show "$id" | grep -E '^(server|client leg|server leg|changes|moves|.*stall)'
[ "$(quiet --json session list | field 0 id)" = "$id" ] || fail "the session is another one"

say "The server is mended; r4 goes back to it by command"
service server2 start
wait_for is_up
dsrctl resource move r4 server2 --wait

say "A drain: everything leaves a server that works, for maintenance"
dsrctl server drain server2 --wait
dsrctl server list
dsrctl server undrain server2

say "What the client says of all that"
# Asked to end it does so with status 128.
kill -INT $fio 2>/dev/null || true
status=0
wait $fio || status=$?
[ $status = 128 ] && grep -q 'err= 0' "$work/fio.log" || {
    tail -20 "$work/fio.log"
    fail "fio found an error"
}
grep -E 'READ:|WRITE:' "$work/fio.log"
echo "fio: every block was right"

say "What the switch has to say"
dsrctl status
say "Done; the lab is removed"
