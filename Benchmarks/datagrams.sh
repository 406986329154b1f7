#!/bin/bash
# Compares what carries NFS calls over UDP from clients' sockets to a server that does as little as possible, and its
# replies back:
#   direct    Linux routing; the client knows the server
#   nftables  Linux routing with nftables DNAT and SNAT
#   nginx     nginx's stream module as a proxy of UDP, one worker
#   dsr       the redirector, handles shared: each is looked up
#   distinct  the redirector, handles distinct: each names its export, which is cut out of it
# All are up during the whole run; each repetition measures each once. Calls are GETATTR with AUTH_SYS.
#   usage: datagrams.sh [REPETITIONS [SECONDS [DEPTH [SOCKETS]]]]       DEPTH: calls open at each of SOCKETS
# Ends with failure when the redirector carries less than 1.5 of what nginx does, or less than 0.7 of what nftables
# does, or when not more than 90 % of its calls have passed in the dataplane alone.
set -euo pipefail
REPETITIONS=${1:-7} SECONDS_EACH=${2:-2} DEPTH=${3:-32} SOCKETS=${4:-4}
PEERS="direct nftables nginx dsr distinct"
PORT=2049 MOUNT_PORT=20048
STREAM_MODULE=/usr/lib/nginx/modules/ngx_stream_module.so
PREFIX=datagrams-$$
. "$(dirname "$0")/common.sh"
if ! command -v nginx >/dev/null || [ ! -e $STREAM_MODULE ]; then
    echo "nginx with its stream module is missing: scripts/install-packages.sh bench installs it" >&2
    echo "(apt-get install nginx libnginx-mod-stream would start nginx as a service too)" >&2
    exit 1
fi
TRAFFIC=${TRAFFIC:-$(program "$HERE" traffic)}
DSRD=${DSRD:-$(program "$HERE/.." dsrd)}

for peer in $PEERS; do three_in_a_row $peer; done

# Linux.
in_the_middle direct
run direct-switch sysctl -qw net.ipv4.ip_forward=1
ip -n "$PREFIX-direct-client" route add 10.20.0.0/24 via 10.10.0.100
ip -n "$PREFIX-direct-server" route add 10.10.0.0/24 via 10.20.0.1
nftables_switch nftables

# nginx. Without proxy_responses a session stays as long as there are datagrams.
in_the_middle nginx
cat >"$WORK/nginx.conf" <<CONFIG
load_module $STREAM_MODULE;
daemon off;
user root;
worker_processes 1;
pid $WORK/nginx.pid;
error_log $WORK/nginx.log warn;
events { use epoll; multi_accept on; worker_connections 1000; }
stream {
    proxy_timeout 10m;
$(for port in $PORT $MOUNT_PORT; do
    echo "    server { listen 10.10.0.100:$port udp rcvbuf=4m; proxy_pass 10.20.0.11:$port; }"
done)
}
CONFIG

# The redirector. A machine that is busy with the benchmark is no evidence against a server.
for peer in dsr distinct; do
    for port in c0 s1; do run $peer-switch sysctl -qw net.ipv6.conf.$port.disable_ipv6=1; done
    { switch_configuration "nfs: {port: $PORT, mount_port: $MOUNT_PORT}"; cat <<CONFIG; } >"$WORK/$peer.yaml"
resources:
  - {name: bench, export: /bench, handles: ${peer/dsr/shared}, servers: [server1], assigned: server1}
nfs: {port: $PORT, mount_port: $MOUNT_PORT, portmapper: false}
health: {interval_ms: 2000, timeout_ms: 10000, request_deadline_ms: 10000, suspect_timeout_ms: 10000}
control: {socket: $WORK/$peer.sock}
CONFIG
done

for peer in $PEERS; do
    ip netns exec "$PREFIX-$peer-server" "$TRAFFIC" serve-nfs $PORT $MOUNT_PORT >"$WORK/$peer.server" & PIDS+=($!)
done
for peer in $PEERS; do
    for attempt in $(seq 50); do grep -q ready "$WORK/$peer.server" && continue 2; sleep 0.1; done
    echo "no server behind $peer" >&2; exit 1
done
ip netns exec "$PREFIX-nginx-switch" nginx -e "$WORK/nginx.log" -c "$WORK/nginx.conf" & PIDS+=($!)
for peer in dsr distinct; do
    ip netns exec "$PREFIX-$peer-switch" "$DSRD" --config "$WORK/$peer.yaml" >"$WORK/$peer.log" 2>&1 & PIDS+=($!)
done
for peer in dsr distinct; do
    for attempt in $(seq 100); do grep -q ' ready: ' "$WORK/$peer.log" && continue 2; sleep 0.1; done
    echo "$peer: the redirector is not ready" >&2; tail -5 "$WORK/$peer.log" >&2; exit 1
done

measure() { # PEER
    local address=10.10.0.100 result
    if [ "$1" = direct ]; then address=10.20.0.11; fi
    result=$(run "$1-client" timeout $((SECONDS_EACH * 3 + 30)) \
        "$TRAFFIC" nfs-udp $address $PORT $MOUNT_PORT /bench "$SECONDS_EACH" "$DEPTH" "$SOCKETS") || return 1
    # shellcheck disable=SC2086
    set -- "$1" $result
    printf '%s\n' "$1 calls $2 0" "$1 half $3 0" "$1 most $4 0" "$1 again $5 0" >>"$WORK/results"
}
passed() { # PEER: calls that have passed in the dataplane, and datagrams that went to the control plane
    curl -sS --unix-socket "$WORK/$1.sock" http://dsr/metrics | awk '
        index($0, "dsr_datagram_packets_total{direction=\"call\"}") == 1 { passed = $2; isThere = 1 }
        index($0, "dsr_datagram_misses_total{") == 1 { missed += $2 }
        END { if (!isThere) exit 1; printf "%.0f %.0f\n", passed, missed }'
}

for repetition in $(seq "$REPETITIONS"); do
    for peer in $PEERS; do
        measure $peer || { echo "$peer failed" >&2; tail -n 5 "$WORK"/*.log >&2; exit 1; }
    done
    echo "repetition $repetition of $REPETITIONS done" >&2
done
echo "Medians of $REPETITIONS alternating runs of $SECONDS_EACH s, $DEPTH calls open at each of $SOCKETS sockets: calls in"
echo "thousands a second; what half of them, and what 99 of 100, take at most, in us; calls that were sent again."
"$TRAFFIC" table "$WORK/results" dsr
echo
failed=0
for peer in dsr distinct; do
    for want in "nginx 1.5" "nftables 0.7"; do
        # shellcheck disable=SC2086
        "$TRAFFIC" require "$WORK/results" $peer ${want% *} calls ${want#* } || failed=1
    done
    counts=$(passed $peer) || { echo "$peer: no metrics of datagrams" >&2; exit 1; }
    # shellcheck disable=SC2086
    awk -v peer=$peer '{
        calls = $1 + $2
        share = calls ? 100 * $1 / calls : 0
        isMet = (share > 90)
        printf "%s: %.2f %% of %.0f calls passed in the dataplane, wanted more than 90: %s\n",
            peer, share, calls, isMet ? "met" : "NOT MET"
        exit !isMet
    }' <<<"$counts" || failed=1
done
exit $failed
