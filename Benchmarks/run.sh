#!/bin/bash
# Compares the switch with its peers, all of them forwarding from a client's namespace to a server's:
#   veth      no forwarder: one cable
#   nft       Linux routing with nftables DNAT and SNAT
#   haproxy   HAProxy, mode tcp, with kernel splicing; its own connection to the server uses the
#             congestion control that this machine has by default
#   ha-reno   the same with reno, as client and server have: some others pace, and cost HAProxy much
#   dsr       this switch: connections accepted, then spliced in the dataplane
# All are up during the whole run; each repetition measures each peer once, so that a slow minute of the
# machine hits all of them. Prints the medians and the ratios.
#   usage: run.sh [REPETITIONS [SECONDS [KINDS]]]
set -euo pipefail
REPETITIONS=${1:-7} SECONDS_EACH=${2:-2} KINDS=${3:-bulk1 bulk4 rr1 rr16 crr udp}
PEERS="veth nft haproxy ha-reno dsr"
PORT=5201
PREFIX=bench
. "$(dirname "$0")/common.sh"
TRAFFIC=$(program "$HERE" traffic)
DSRD=$(program "$HERE/.." dsrd)
CONGESTION_CONTROL=$(sysctl -n net.ipv4.tcp_congestion_control)

# The cable alone.
namespaces veth-client veth-server
cable veth-client eth0 veth-server eth0
ip -n bench-veth-client addr add 10.10.0.11/24 dev eth0
ip -n bench-veth-server addr add 10.10.0.100/24 dev eth0

# Three hosts in a row.
for peer in nft haproxy ha-reno dsr; do three_in_a_row $peer; done
run haproxy-switch sysctl -qw net.ipv4.tcp_congestion_control="$CONGESTION_CONTROL"
for peer in haproxy ha-reno; do in_the_middle $peer; done
nftables_switch nft
haproxy_configuration "$PORT" splice-request splice-response >"$WORK/haproxy.cfg"
for peer in haproxy ha-reno; do
    ip netns exec bench-$peer-switch haproxy -db -q -f "$WORK/haproxy.cfg" & PIDS+=($!)
done
for port in c0 s1; do run dsr-switch sysctl -qw net.ipv6.conf.$port.disable_ipv6=1; done
{ switch_configuration; cat <<CONFIG; } >"$WORK/dsr.yaml"
services:
  - {name: bench, listen: {port: $PORT}, server: server1, port: $PORT}
rules:
  - >-
    priority=65000,udp,in_port=c0,nw_dst=10.10.0.100,tp_dst=$PORT
    actions=mod_dl_src:02:64:73:72:00:02,mod_dl_dst:$(mac dsr-server eth0),mod_nw_src:10.20.0.1,mod_nw_dst:10.20.0.11,output:s1
  - >-
    priority=65000,udp,in_port=s1,nw_src=10.20.0.11,tp_src=$PORT
    actions=mod_dl_src:02:64:73:72:00:01,mod_dl_dst:$(mac dsr-client eth0),mod_nw_src:10.10.0.100,mod_nw_dst:10.10.0.11,output:c0
control: {socket: $WORK/dsrd.sock}
CONFIG
ip netns exec bench-dsr-switch "$DSRD" --config "$WORK/dsr.yaml" >"$WORK/dsrd.log" 2>&1 & PIDS+=($!)
for peer in $PEERS; do
    ip netns exec bench-$peer-server "$TRAFFIC" serve $PORT >"$WORK/$peer.log" & PIDS+=($!)
done
for attempt in $(seq 50); do
    [ -S "$WORK/dsrd.sock" ] && grep -q ready "$WORK"/{veth,nft,haproxy,ha-reno,dsr}.log && break
    sleep 0.1
done
sleep 0.5

for repetition in $(seq "$REPETITIONS"); do
    for kind in $KINDS; do
        for peer in $PEERS; do
            [[ "$kind $peer" = "udp ha"* ]] && continue
            result=$(run $peer-client timeout $((SECONDS_EACH * 3 + 15)) \
                "$TRAFFIC" "$kind" 10.10.0.100 $PORT "$SECONDS_EACH") || {
                echo "$peer $kind failed" >&2; ip netns exec bench-dsr-switch ss -tln >&2; ip netns exec bench-dsr-switch ip -br a >&2; tail -5 "$WORK/dsrd.log" >&2; exit 1; }
            echo "$peer $kind $result" >>"$WORK/results"
        done
    done
    echo "repetition $repetition of $REPETITIONS done" >&2
done
echo "HAProxy's own congestion control: $(run haproxy-switch sysctl -n net.ipv4.tcp_congestion_control)."
echo "Medians of $REPETITIONS alternating runs of $SECONDS_EACH s; bulk in Gbit/s, rr, crr and udp in thousands a second."
"$TRAFFIC" table "$WORK/results" dsr
