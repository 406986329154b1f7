#!/bin/bash
# Installs what the build, the lab and the tests need from Debian, if it is missing, and says what it does.
#   usage: install-packages.sh [build|lab|bench]...     (default: build lab)
set -euo pipefail
build="git make g++ pkg-config libpcap-dev libnl-3-dev libnl-route-3-dev"
# What the Swift toolchain itself loads; asked for only when it does not start.
toolchain="binutils libcurl4-openssl-dev libncurses-dev libsqlite3-dev libxml2-dev zlib1g-dev tzdata"
# nfs-ganesha brings nfs-common (rpc.statd for locks); e2fsprogs and mount are for exports that are file-system images.
lab="iproute2 iputils-ping procps ethtool tcpdump curl tgt libiscsi-bin qemu-utils qemu-block-extra fio \
 openvswitch-switch python3 socat nfs-ganesha nfs-ganesha-vfs rpcbind libnfs-utils e2fsprogs mount"
bench="haproxy nftables nginx libnginx-mod-stream"
swift=${SWIFT:-swift}
wanted=""
for group in "${@:-build lab}"; do
    for name in $group; do
        case $name in
        build)
            if ! command -v "$swift" >/dev/null; then
                echo "\"$swift\" is not on PATH ($PATH). Swift 6.3: https://www.swift.org/install/linux" >&2
                exit 1
            fi
            wanted+=" $build"
            "$swift" --version >/dev/null 2>&1 || wanted+=" $toolchain"
            ;;
        lab) wanted+=" $lab" ;;
        bench) wanted+=" $bench" ;;
        *) echo "install-packages: no group \"$name\": there are build, lab and bench" >&2; exit 2 ;;
        esac
    done
done
missing=()
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ]; then
    echo "These Debian packages are missing; install them as root: ${missing[*]}" >&2
    exit 1
fi
echo "Installing from Debian: ${missing[*]}"
# The packages' own services (tgt, haproxy, nginx, openvswitch, rpcbind, nfs-ganesha) are not wanted: the lab, the
# tests and the benchmarks start their own, in network namespaces.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/tmp/dsr-apt.$$ 2>&1 || {
    tail -30 /tmp/dsr-apt.$$ >&2
    exit 1
}
rm -f /tmp/dsr-apt.$$
