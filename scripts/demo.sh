#!/bin/bash
# The main job as a demonstration: a real initiator, one virtual address, three real servers, and a session
# that moves between the redirector's relay and its fast path while data is written.
#   usage: demo.sh DIRECTORY-OF-THE-PROGRAMS
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
[ "$(id -u)" = 0 ] || { echo "The demonstration needs root: it makes network namespaces." >&2; exit 1; }
work=$(mktemp -d)
lab=(--state "$work/lab" --prefix dsr-demo)
nbd=""

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }

dsrctl() { show "dsrctl $*"; ip netns exec dsr-demo-dsr1 "$bin/dsrctl" --socket "$socket" "$@"; }
client() { show "$*"; ip netns exec dsr-demo-client1 "$@"; }
cleanup() {
    status=$?
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
show "fio --rw=randrw --verify=crc32c ... (in the background, 8 s)"
fio --name=demo --ioengine=nbd --uri="nbd+unix:///?socket=$work/nbd" --rw=randrw --bs=64k --size=64M \
    --iodepth=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime=8 \
    >"$work/fio.log" 2>&1 & fio=$!
sleep 2
dsrctl session list
id=$(ip netns exec dsr-demo-dsr1 "$bin/dsrctl" --socket "$socket" --json session list |
    python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["id"])')

say "Its packets pass from port to port; the CPU ports stay quiet"
dsrctl port list
show "dsrctl flow list | grep splice"
ip netns exec dsr-demo-dsr1 "$bin/dsrctl" --socket "$socket" flow list | grep splice

say "Out of the fast path and in again, twenty times, while fio verifies every block"
for pair in $(seq 20); do
    for verb in unsplice splice; do
        ip netns exec dsr-demo-dsr1 "$bin/dsrctl" --socket "$socket" session $verb "$id" >/dev/null
    done
done
dsrctl session show "$id"
set +e
wait $fio
status=$?
set -e
[ $status = 0 ] || { tail -20 "$work/fio.log"; echo "fio found an error" >&2; exit 1; }
grep -E 'READ:|WRITE:' "$work/fio.log"
echo "fio: every block was right"

say "What the switch has to say"
dsrctl status
say "Done; the lab is removed"
