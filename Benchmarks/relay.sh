#!/bin/bash
# Compares what carries iSCSI sessions message by message, or octet by octet, between an initiator and targets that
# do as little as possible:
#   haproxy   HAProxy, mode tcp, without kernel splicing: one session to one server
#   one       the redirector, one session to three units that one server has
#   three     the same with three units on three servers
# Sessions of the redirector stay in the relay (iscsi.splice: manual). All are up during the whole run; each
# repetition measures each once.
#   usage: relay.sh [REPETITIONS [SECONDS [KINDS]]]
# Ends with failure when a relayed session over three servers moves less than HAProxy, or less than 0.9 of what it
# moves over one, or when a read of 4 KiB takes more than 1.5 times what it takes through HAProxy.
set -euo pipefail
REPETITIONS=${1:-7} SECONDS_EACH=${2:-2} KINDS=${3:-read256k write256k read4k write4k latency4k}
PREFIX=relay-$$
. "$(dirname "$0")/common.sh"
TRAFFIC=${TRAFFIC:-$(program "$HERE" traffic)}
DSRD=${DSRD:-$(program "$HERE/.." dsrd)}

three_in_a_row haproxy
namespaces dsr-client dsr-switch dsr-server1 dsr-server2 dsr-server3
cable dsr-switch c0 dsr-client eth0
ip -n "$PREFIX-dsr-client" addr add 10.10.0.11/24 dev eth0
for n in 1 2 3; do
    cable dsr-switch s$n dsr-server$n eth0
    ip -n "$PREFIX-dsr-server$n" addr add 10.20.0.1$n/24 dev eth0
done
for port in c0 s1 s2 s3; do run dsr-switch sysctl -qw net.ipv6.conf.$port.disable_ipv6=1; done
in_the_middle haproxy
haproxy_configuration 3260 >"$WORK/haproxy.cfg"
# A machine that is busy with the benchmark is no evidence against a server.
cat >"$WORK/dsr.yaml" <<CONFIG
ports:
  - {name: c0, device: c0, side: client}
  - {name: s1, device: s1, side: storage}
  - {name: s2, device: s2, side: storage}
  - {name: s3, device: s3, side: storage}
cpu:
  client:  {device: dsr-client,  mac: "02:64:73:72:00:01", addresses: [10.10.0.100/24]}
  storage: {device: dsr-storage, mac: "02:64:73:72:00:02", addresses: [10.20.0.1/24]}
servers:
  - {name: server1, addresses: [10.20.0.11]}
  - {name: server2, addresses: [10.20.0.12]}
  - {name: server3, addresses: [10.20.0.13]}
iscsi: {splice: manual, all_units_target: "iqn.2026-01.lab.dsr:all"}
resources:
$(for n in 1 2 3; do
    echo "  - {name: u$n, unit: $n, target: 'iqn.2026-01.lab.dsr:u$n', servers: [server$n], assigned: server$n}"
    echo "  - {name: v$n, unit: 1$n, target: 'iqn.2026-01.lab.dsr:v$n', servers: [server1], assigned: server1}"
done)
health: {interval_ms: 2000, timeout_ms: 10000, request_deadline_ms: 10000, suspect_timeout_ms: 10000}
control: {socket: $WORK/dsrd.sock}
log: {level: info}
CONFIG
for server in haproxy-server dsr-server1 dsr-server2 dsr-server3; do
    ip netns exec "$PREFIX-$server" "$TRAFFIC" serve-iscsi 3260 >"$WORK/$server" & PIDS+=($!)
done
for server in haproxy-server dsr-server1 dsr-server2 dsr-server3; do
    for attempt in $(seq 50); do grep -q ready "$WORK/$server" && break; sleep 0.1; done
done
ip netns exec "$PREFIX-haproxy-switch" haproxy -db -q -f "$WORK/haproxy.cfg" & PIDS+=($!)
ip netns exec "$PREFIX-dsr-switch" "$DSRD" --config "$WORK/dsr.yaml" >"$WORK/dsrd.log" 2>&1 & PIDS+=($!)
for attempt in $(seq 100); do grep -q ' ready: ' "$WORK/dsrd.log" && break; sleep 0.1; done
sleep 1

measure() { # PEER KIND
    local host=dsr session="iqn.2026-01.lab.dsr:all"
    case $1 in
        haproxy) host=haproxy session="iqn.2026-01.lab.dsr:bench 1" ;;
        one) session+=" 11,12,13" ;;
        three) session+=" 1,2,3" ;;
    esac
    # shellcheck disable=SC2086
    echo "$1 $2 $(run $host-client timeout $((SECONDS_EACH * 3 + 15)) \
        "$TRAFFIC" "$2" 10.10.0.100 3260 "$SECONDS_EACH" $session)" >>"$WORK/results"
}
for repetition in $(seq "$REPETITIONS"); do
    for kind in $KINDS; do
        for peer in haproxy one three; do
            measure $peer $kind || { echo "$peer $kind failed" >&2; tail -n 5 "$WORK/dsrd.log" >&2; exit 1; }
        done
    done
    echo "repetition $repetition of $REPETITIONS done" >&2
done
echo "Medians of $REPETITIONS alternating runs of $SECONDS_EACH s, 16 requests open; 256k in Gbit/s of SCSI data,"
echo "4k in thousands of requests a second, latency in us with one request open."
"$TRAFFIC" table "$WORK/results" three
echo
failed=0
for want in "read256k haproxy 1" "write256k haproxy 1" "read256k one 0.9" "write256k one 0.9"; do
    [[ " $KINDS " = *" ${want%% *} "* ]] || continue
    # shellcheck disable=SC2086
    set -- $want
    "$TRAFFIC" require "$WORK/results" three "$2" "$1" "$3" || failed=1
done
# Latency: less is better, so it is HAProxy's that must be at least two thirds.
if [[ " $KINDS " = *" latency4k "* ]]; then
    "$TRAFFIC" require "$WORK/results" haproxy three latency4k 0.667 || failed=1
fi
exit $failed
