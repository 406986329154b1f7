#!/bin/bash
# What real initiators see when a server fails, without the redirector and with it.
#
#   sudo tools/baseline.sh [FAILURE...]     FAILURE: none, kill, link, freeze; default: all, about 10 minutes
#
# Without: a client and two identical servers on one segment; server1 has the address that the client knows,
# and TAKEOVER seconds after the failure server2 has it (the client's neighbour entry is renewed at once).
# With: the lab fig2-san, where the client knows the redirector's address; nothing but the failure happens.
# The same initiators at r1 and r2, which are at server1, in both; each in a fresh lab. Failures happen 2 s
# after the load has begun:
#
#   kill    SIGKILL of tgtd: its kernel closes or resets connections
#   link    the cable is pulled: no packet any more
#   freeze  SIGSTOP of tgtd: packets are acknowledged, requests never answered
#
# Initiators:
#
#   libiscsi            verify-load.py, two sessions, every octet verified; a closed connection stays closed
#   libiscsi reconnect  the same, with a new session in place of a closed one
#   qemu                qemu-io: 400 writes of 64 KiB to r1, one after the other, read back at the end; QEMU's
#                       initiator reconnects and repeats requests by itself
#
# A field: requests that failed and other errors, closed connections, longest silence between two answers (qemu:
# longest request); with "ended" no session was left; with WRONG DATA octets were wrong.
#
# DSR_LAB: the dsr-lab to use, with dsrd beside it (default: the newest build). SIDES: "without", "with" or
# both (default). TAKEOVER: seconds (default: 2). PATIENCE: seconds of load (default: 12, freeze: 45).
set -uo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 2
here=$PWD
failures=${*:-none kill link freeze}
sides=${SIDES:-without with}
takeover=${TAKEOVER:-2}
target=iqn.2026-01.lab.dsr
portal=10.10.0.100

fail() { echo "baseline: $*" >&2; exit 2; }
for failure in $failures; do
    case $failure in none | kill | link | freeze) ;; *) fail "no failure \"$failure\"" ;; esac
done
[ "$(id -u)" = 0 ] || fail "needs root, for the network namespaces of the lab"
for program in qemu-io tgtd tgtadm ip python3; do
    command -v $program >/dev/null || fail "$program is missing: scripts/install-packages.sh lab"
done
lab=${DSR_LAB:-$(ls -t .build/*/dsr-lab 2>/dev/null | head -1)}
[ -x "$lab" ] || fail "there is no dsr-lab: build it (swift build), or name it in DSR_LAB"
prefix=baseline-$$
scratch=$(mktemp -d /tmp/dsr-baseline.XXXXXX) || fail "no scratch folder"
trap '"$lab" down $prefix >/dev/null 2>&1; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

up() { # SIDE
    if [ "$1" = without ]; then
        "$lab" up topologies/direct --prefix $prefix >/dev/null || fail "the lab does not come up"
        "$lab" exec $prefix server1 -- ip address add $portal/24 dev eth0
    else
        sed "s|/run/dsr-lab/fig2-san|/run/dsr-lab/$prefix|" topologies/fig2-san/dsr.yaml \
            >"$scratch/dsr.yaml"
        "$lab" up topologies/fig2-san --prefix $prefix --dsr-config "$scratch/dsr.yaml" >/dev/null ||
            fail "the lab does not come up"
    fi
}

break_it() { # SIDE FAILURE
    case $2 in
    none) return ;;
    kill | freeze) "$lab" service $prefix server1 "$2" >/dev/null ;;
    link) "$lab" link $prefix server1 down ;;
    esac
    [ "$1" = without ] || return
    sleep "$takeover"
    ip -n $prefix-server1 address delete $portal/24 dev eth0
    ip -n $prefix-server2 address add $portal/24 dev eth0
    ip -n $prefix-client1 neighbour flush to $portal
}

load() { # SIDE FAILURE SECONDS OPTION...: the result's field
    rm -f "$scratch/load.err"
    "$lab" exec $prefix client1 -- "$here/tools/verify-load.py" --portal $portal --target $target:r1 \
        --target $target:r2 --rate 200 --seconds "$3" --final-verify --drain-seconds 5 "${@:4}" \
        --output "$scratch/load.json" >/dev/null 2>"$scratch/load.err" &
    local process=$!
    : >>"$scratch/load.err"
    until grep -q '^running' "$scratch/load.err" || ! kill -0 $process 2>/dev/null; do sleep 0.05; done
    sleep 2
    break_it "$1" "$2"
    wait $process
    python3 - "$scratch/load.json" "${@:4}" <<'END'
import json, sys
with open(sys.argv[1]) as file:
    result = json.load(file)
text = f"{result['error_count']} errors, {result['closed_connections']} closed, "
comes_back = sys.argv[2:] == ["--reconnect"]
ended = sum(s["closed"] > 0 or s["blocks"] is None for s in result["sessions"])
if ended and not comes_back:
    text += "ended" if ended == len(result["sessions"]) else "one ended"
else:
    text += f"{max(result['longest_gap_ms'], result['longest_stall_ms'] or 0):.0f} ms"
print(text + (", WRONG DATA" if result["wrong_blocks"] else ""))
END
}

qemu() { # SIDE FAILURE SECONDS
    local url="iscsi://$portal/$target:r1/1" number
    # Some 15 ms each: until the failure, and long enough behind it.
    for ((number = 0; number < 400; number++)); do
        echo "write -P $((number % 251 + 1)) $((number * 64))k 64k"
        echo "sleep 15"
    done >"$scratch/commands"
    "$lab" exec $prefix client1 -- timeout $(($3 + 40)) qemu-io -f raw "$url" <"$scratch/commands" \
        >"$scratch/qemu" 2>&1 &
    local process=$!
    sleep 2
    break_it "$1" "$2"
    wait $process
    local status=$?
    for ((number = 0; number < 400; number++)); do
        echo "read -P $((number % 251 + 1)) $((number * 64))k 64k"
    done | "$lab" exec $prefix client1 -- timeout 60 qemu-io -f raw "$url" >"$scratch/back" 2>&1
    python3 - "$scratch" $status $(($3 + 40)) <<'END'
import re, sys
folder, status, limit = sys.argv[1:]
text = open(f"{folder}/qemu").read()
back = open(f"{folder}/back").read()
def seconds(time):
    value = 0.0
    for part in time.split(":"):
        value = value * 60 + float(part)
    return value
times = [seconds(t) for t in re.findall(r"1 ops; ([0-9:.]+)", text)]
# What libiscsi and QEMU say on their own is not an error of a request.
failed = len(re.findall(r"(?:write failed|read failed|can't open)", text))
answer = f"{failed} errors, "
answer += f"hangs for more than {limit} s" if status == "124" else \
    f"{max(times, default=0) * 1000:.0f} ms" + ("" if len(times) == 400 else f", {len(times)} of 400")
if "verification failed" in back:
    answer += ", WRONG DATA"
elif back.count("1 ops;") != 400:
    answer += ", not read back"
print(answer)
END
}

printf '%-8s| %-19s| %-38s| %s\n' failure initiator "without DSR" "with DSR"
printf -- '--------|--------------------|---------------------------------------|-----------------------------\n'
for failure in $failures; do
    seconds=${PATIENCE:-12}
    [ "$failure" = freeze ] && seconds=${PATIENCE:-45}
    for initiator in libiscsi "libiscsi reconnect" qemu; do
        field=()
        for side in without with; do
            if ! grep -qw "$side" <<<"$sides"; then field+=("-"); continue; fi
            up $side
            case $initiator in
            libiscsi) text=$(load $side "$failure" "$seconds") ;;
            "libiscsi reconnect") text=$(load $side "$failure" "$seconds" --reconnect) ;;
            qemu) text=$(qemu $side "$failure" "$seconds") ;;
            esac
            field+=("$text")
            "$lab" down $prefix >/dev/null || fail "the lab does not go down"
        done
        printf '%-8s| %-19s| %-38s| %s\n' "$failure" "$initiator" "${field[0]}" "${field[1]}"
    done
done
