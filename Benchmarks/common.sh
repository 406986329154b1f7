# What the benchmarks share: programs, namespaces, cables, and their end. To be sourced, with PREFIX set.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SWIFT=${SWIFT:-swift}
WORK=$(mktemp -d)
NAMESPACES=()
PIDS=()

cleanup() {
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
    sleep 0.3
    for namespace in "${NAMESPACES[@]}"; do ip netns del "$namespace" 2>/dev/null || true; done
    [ -n "${KEEP:-}" ] || rm -rf "$WORK"
}
trap cleanup EXIT
[ "$(id -u)" = 0 ] || { echo "benchmarks need root: they make network namespaces" >&2; exit 1; }

program() { # PACKAGE PRODUCT: builds it, prints its path
    "$SWIFT" build --package-path "$1" -c release --product "$2" >"$WORK/build.log" 2>&1 ||
        { tail -20 "$WORK/build.log" >&2; return 1; }
    echo "$("$SWIFT" build --package-path "$1" -c release --show-bin-path)/$2"
}
run() { ip netns exec "$PREFIX-$1" "${@:2}"; }
namespaces() {
    for host in "$@"; do
        ip netns add "$PREFIX-$host"
        NAMESPACES+=("$PREFIX-$host")
        ip -n "$PREFIX-$host" link set lo up
        run "$host" sysctl -qw net.ipv6.conf.all.disable_ipv6=1
        # Ends have the same on every machine, and one that does not pace: the forwarder is to be the
        # bottleneck.
        run "$host" sysctl -qw net.ipv4.tcp_congestion_control=reno
    done
}
cable() { # HOST DEVICE HOST DEVICE: MACs end in the device names' numbers
    ip -n "$PREFIX-$1" link add "$2" type veth peer name "$4" netns "$PREFIX-$3"
    ip -n "$PREFIX-$1" link set "$2" txqueuelen 10000 up
    ip -n "$PREFIX-$3" link set "$4" txqueuelen 10000 up
}
mac() { run "$1" cat "/sys/class/net/$2/address"; }
three_in_a_row() { # NAME: client, switch and server, with addresses at the outer two
    namespaces "$1-client" "$1-switch" "$1-server"
    cable "$1-switch" c0 "$1-client" eth0
    cable "$1-switch" s1 "$1-server" eth0
    ip -n "$PREFIX-$1-client" addr add 10.10.0.11/24 dev eth0
    ip -n "$PREFIX-$1-server" addr add 10.20.0.11/24 dev eth0
}
in_the_middle() { # NAME: the switch's kernel has the virtual address, and one at the server's side
    ip -n "$PREFIX-$1-switch" addr add 10.10.0.100/24 dev c0
    ip -n "$PREFIX-$1-switch" addr add 10.20.0.1/24 dev s1
}
nftables_switch() { # NAME: one in the middle that passes what comes for the virtual address on to the server
    in_the_middle "$1"
    run "$1-switch" sysctl -qw net.ipv4.ip_forward=1
    run "$1-switch" nft -f - <<RULES
table ip n {
    chain pre { type nat hook prerouting priority dstnat; ip daddr 10.10.0.100 dnat to 10.20.0.11; }
    chain post { type nat hook postrouting priority srcnat; oifname "s1" snat to 10.20.0.1; }
}
RULES
}
switch_configuration() { # [KEYS]: what all configurations of the redirector begin with; more keys of the server
    cat <<CONFIG
ports:
  - {name: c0, device: c0, side: client}
  - {name: s1, device: s1, side: storage}
cpu:
  client:  {device: dsr-client,  mac: "02:64:73:72:00:01", addresses: [10.10.0.100/24]}
  storage: {device: dsr-storage, mac: "02:64:73:72:00:02", addresses: [10.20.0.1/24]}
servers:
  - {name: server1, addresses: [10.20.0.11]${1:+, $1}}
log: {level: info}
CONFIG
}
haproxy_configuration() { # PORT [OPTION...]: mode tcp, from the virtual address to the only server
    cat <<CONFIG
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
$([ $# -gt 1 ] && printf '    option %s\n' "${@:2}")
listen l
    bind 10.10.0.100:$1
    source 10.20.0.1
    server s 10.20.0.11:$1
CONFIG
}
