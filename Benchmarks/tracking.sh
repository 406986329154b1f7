#!/bin/bash
# Compares, for a spliced iSCSI session between an initiator and a target that do as little as possible:
#   spliced   through a plain TCP service: packets are rewritten and passed, their content is not looked at
#   tracked   through the iSCSI portal without a request log: messages are followed and edited
#   logged    the same with a request log: open requests are kept, so that another server can be given them
# All are up during the whole run; each repetition measures each once. During each run its session is
# asked for: one that is not spliced, or not protected with the log, ends the benchmark.
#   usage: tracking.sh [REPETITIONS [SECONDS [KINDS]]]
# Ends with failure when reads of 256 KiB with the log have less than 0.85 of what they have spliced only, or
# writes less than 0.7.
set -euo pipefail
REPETITIONS=${1:-7} SECONDS_EACH=${2:-2} KINDS=${3:-read256k write256k read4k write4k}
PEERS="spliced tracked logged"
PREFIX=tracking-$$
. "$(dirname "$0")/common.sh"
TRAFFIC=$(program "$HERE" traffic)
DSRD=$(program "$HERE/.." dsrd)
DSRCTL=$(program "$HERE/.." dsrctl)

for switch in log nolog; do
    three_in_a_row $switch
    for port in c0 s1; do run $switch-switch sysctl -qw net.ipv6.conf.$port.disable_ipv6=1; done
    # A machine that is busy with the benchmark is no evidence against the server.
    { switch_configuration; cat <<CONFIG; } >"$WORK/$switch.yaml"
resources:
  - {name: bench, target: "iqn.2026-01.lab.dsr:bench", servers: [server1], assigned: server1}
services:
  - {name: plain, listen: {port: 3261}, server: server1, port: 3260}
health: {interval_ms: 2000, timeout_ms: 10000, request_deadline_ms: 10000, suspect_timeout_ms: 10000}
limits: {request_log_bytes: $([ $switch = log ] && echo 33554432 || echo 0)}
control: {socket: $WORK/$switch.sock}
CONFIG
    ip netns exec "$PREFIX-$switch-server" "$TRAFFIC" serve-iscsi 3260 >"$WORK/$switch.target" & PIDS+=($!)
    for attempt in $(seq 50); do grep -q ready "$WORK/$switch.target" && break; sleep 0.1; done
    ip netns exec "$PREFIX-$switch-switch" "$DSRD" --config "$WORK/$switch.yaml" \
        >"$WORK/$switch.log" 2>&1 & PIDS+=($!)
done
for switch in log nolog; do
    for attempt in $(seq 100); do
        grep -q ' ready: ' "$WORK/$switch.log" && continue 2
        sleep 0.1
    done
    echo "no portal at $switch" >&2; tail -5 "$WORK/$switch.log" >&2; exit 1
done

# Whether the only session is what its peer's name says; prints the octets that its log keeps.
cat >"$WORK/check.py" <<'CHECK'
import json, sys
peer, sessions = sys.argv[1], json.load(sys.stdin)
if len(sessions) != 1: sys.exit(f"{peer}: {len(sessions)} sessions")
session = sessions[0]
expected = {"protocol": "tcp" if peer == "spliced" else "iscsi", "state": "spliced", "splices": 1,
            "unsplices": 0, "unprotected_requests": 0 if peer == "logged" else None,
            "is_protected": {"spliced": None, "tracked": False, "logged": True}[peer]}
for key, value in expected.items():
    if session.get(key) != value: sys.exit(f"{peer}: {key} is {session.get(key)}, not {value}: {session}")
print(session.get("log_bytes", 0))
CHECK

measure() { # PEER KIND
    local switch=log port=3260 client
    case $1 in spliced) port=3261 ;; tracked) switch=nolog ;; esac
    ip netns exec "$PREFIX-$switch-client" timeout $((SECONDS_EACH * 3 + 15)) \
        "$TRAFFIC" "$2" 10.10.0.100 $port "$SECONDS_EACH" >"$WORK/result" & client=$!
    # Half a second is before what counts. Asked for early: on a busy machine the question takes long.
    sleep 0.7
    "$DSRCTL" session list --json --socket "$WORK/$switch.sock" |
        python3 "$WORK/check.py" "$1" >>"$WORK/kept-$1-$2" || { kill $client 2>/dev/null; return 1; }
    wait $client || return 1
    echo "$1 $2 $(cat "$WORK/result")" >>"$WORK/results"
    # A session that ended is listed until both ends have closed.
    for attempt in $(seq 50); do
        [ "$("$DSRCTL" session list --json --socket "$WORK/$switch.sock" | tr -d ' \n')" = "[]" ] && return
        sleep 0.1
    done
    echo "$1 $2: the session does not end" >&2
    return 1
}

for repetition in $(seq "$REPETITIONS"); do
    for kind in $KINDS; do
        for peer in $PEERS; do
            measure $peer $kind || { echo "$peer $kind failed" >&2; tail -n 5 "$WORK"/*.log >&2; exit 1; }
        done
    done
    echo "repetition $repetition of $REPETITIONS done" >&2
done
for kind in $KINDS; do
    sort -n "$WORK/kept-logged-$kind" | tail -1 | grep -qx 0 &&
        { echo "$kind: the request log never kept anything" >&2; exit 1; }
done
echo "Medians of $REPETITIONS alternating runs of $SECONDS_EACH s, 16 requests open; 256k in Gbit/s of SCSI data,"
echo "4k in thousands of requests a second."
"$TRAFFIC" table "$WORK/results" logged
echo
failed=0
for want in "read256k 0.85" "write256k 0.7"; do
    [[ " $KINDS " = *" ${want% *} "* ]] || continue
    "$TRAFFIC" require "$WORK/results" logged spliced $want || failed=1
done
exit $failed
