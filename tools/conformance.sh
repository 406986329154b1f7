#!/bin/bash
# Runs the conformance tests of libiscsi against a tgtd directly and through the redirector, with and
# without CHAP, and prints what differs. Nothing may: to an initiator the redirector is the server. Nor may a
# volume (a stripe, a mirror) differ from the disks that it is made of, but for what stands in the list below.
#
#   sudo tools/conformance.sh [FAMILY[.SUITE[.TEST]]]     default: ALL, 230 tests, about 5 minutes
#
# DSR_LAB: the dsr-lab to use, with dsrd beside it (default: the newest build).
# RESULTS: folder for the results of each test (default: a temporary one).
# LIMIT:   seconds after which a test counts as hanging (default: 30).
#
# Each test runs in a process of its own: in one process the result of a test depends on those before it,
# and one that hangs would end the run. Each pass has a fresh lab: some tests look at unwritten blocks.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 2
filter=${1:-ALL}
limit=${LIMIT:-30}

fail() { echo "conformance: $*" >&2; exit 2; }
[ "$(id -u)" = 0 ] || fail "needs root, for the network namespaces of the lab"
for program in iscsi-test-cu tgtd tgtadm ip; do
    command -v $program >/dev/null || fail "$program is missing: apt-get install libiscsi-bin tgt iproute2"
done
lab=${DSR_LAB:-$(ls -t .build/release/dsr-lab .build/debug/dsr-lab 2>/dev/null | head -1)}
[ -x "$lab" ] || fail "there is no dsr-lab: build it (swift build), or name it in DSR_LAB"
results=${RESULTS:-$(mktemp -d /tmp/dsr-conformance.XXXXXX)} || fail "no folder for the results"
mkdir -p "$results" || fail "no folder $results"
prefix=conformance-$$
trap '"$lab" down $prefix >/dev/null 2>&1' EXIT
trap 'exit 130' INT TERM

tests=$(iscsi-test-cu --list | awk -F. 'NF == 3' | grep -E "^${filter//./\\.}(\.|\$)")
[ -n "$tests" ] || fail "there is no test $filter; iscsi-test-cu --list shows them"

# One line for each test: RESULT NAME REASONS. Reasons are the assertions that failed (with their lines
# in libiscsi's source) or why the test was skipped.
run_tests() { # HOST URL TESTS
    local name output summary result reasons
    for name in $3; do
        output=$("$lab" exec $prefix "$1" -- timeout -k 1 "$limit" stdbuf -oL \
            iscsi-test-cu --dataloss --verbose --test="$name" "$2" 2>&1 </dev/null | head -c 500000)
        # tests TOTAL RAN PASSED FAILED INACTIVE
        summary=$(awk '$1 == "tests" { print $3, $5 }' <<<"$output")
        case $summary in
            "") result=DIED ;; # crashed, or did not end in time
            "0 "*) result=NONE ;;
            *" 0") if grep -q '\[SKIPPED\]' <<<"$output"; then result=SKIP; else result=PASS; fi ;;
            *) result=FAIL ;;
        esac
        reasons=$(grep -oE '^ +[0-9]+\. .*|\[SKIPPED\].*' <<<"$output" | sed 's/^ *//' | sort -u |
            tr '\n' ';')
        echo "$result $name $reasons"
    done
}

in_lab() { # TOPOLOGY HOST URL TESTS [OPTION...]
    "$lab" up "topologies/$1" --prefix $prefix "${@:5}" >/dev/null || fail "the lab does not come up"
    run_tests "$2" "$3" "$4"
    "$lab" down $prefix >/dev/null || fail "the lab does not go down"
}

declare -A arguments
pass() { # NAME TOPOLOGY HOST URL [OPTION]
    local file=$results/$1 begin=$SECONDS
    arguments[$1]="$2 $3 $4 ${5:-}"
    in_lab "$2" "$3" "$4" "$tests" ${5:+"$5"} >"$file"
    printf '%-18s %s (%d s)\n' "$1" \
        "$(awk '{ count[$1]++ } END { for (r in count) printf "%s %d  ", r, count[r] }' "$file")" \
        $((SECONDS - begin))
}

# A test that gives different results against tgtd itself says nothing by one more of them (there is one:
# iSCSITMF.LUNResetSimpleAsync uses memory after it was freed, and crashes or not).
is_unsteady() { # DIRECT TEST
    local topology host url option
    read -r topology host url option <<<"${arguments[$1]}"
    [ "$(in_lab "$topology" "$host" "$url" "$(yes "$2" | head -12)" $option | sort -u | wc -l)" -gt 1 ]
}

# Tests that a volume passes and the disks that it is made of do not: a line for each, TEST REASON.
volume_exceptions=$(cat <<'END'
ALL.CompareAndWrite.DpoFua tgtd has no COMPARE AND WRITE, a volume does it itself
ALL.CompareAndWrite.InvalidDataOutSize tgtd has no COMPARE AND WRITE, a volume does it itself
ALL.CompareAndWrite.Miscompare tgtd has no COMPARE AND WRITE, a volume does it itself
ALL.CompareAndWrite.Simple tgtd has no COMPARE AND WRITE, a volume does it itself
ALL.CompareAndWrite.Unwritten tgtd has no COMPARE AND WRITE, a volume does it itself
ALL.GetLBAStatus.BeyondEol tgtd tells of blocks beyond its end, a volume refuses
END
)

compare() { # DIRECT REDIRECTED [EXCEPTIONS]
    local name reason count=0
    for name in $(diff "$results/$1" "$results/$2" | awk '/^[<>]/ { print $3 }' | sort -u); do
        reason=$(awk -v name="$name" '$1 == name { $1 = ""; print substr($0, 2) }' <<<"${3:-}")
        if [ -n "$reason" ] && grep -q "^PASS $name " "$results/$2"; then
            echo "$name: passed over, $reason"
            continue
        fi
        if is_unsteady "$1" "$name"; then
            echo "$name: passed over, its results differ against tgtd itself"
            continue
        fi
        count=$((count + 1))
        echo "$name differs: $1 (<) and $2 (>)"
        diff <(grep -F " $name " "$results/$1") <(grep -F " $name " "$results/$2") | grep '^[<>]'
    done
    differences=$((differences + count))
    echo "$1 and $2: $count differences in $(wc -l <"$results/$1") tests"
}

target=iqn.2026-01.lab.dsr:r1/1
pass direct fig2-san server1 "iscsi://10.20.0.11/$target" --no-dsrd
pass redirected fig2-san client1 "iscsi://10.10.0.100/$target"
pass one-of-many fig2-san client1 "iscsi://10.10.0.100/iqn.2026-01.lab.dsr:all/3"
# The mirror's change map is in a folder that is there, whatever the lab is called.
volumes=$(cd "$results" && pwd)/fig2-volumes
rm -f "$volumes.map"
sed "s|/run/dsr-lab/fig2-volumes/v8.map|$volumes.map|" topologies/fig2-volumes/dsr.yaml >"$volumes.yaml"
for unit in stripe:7 mirror:8; do
    pass "${unit%:*}" fig2-volumes client1 "iscsi://10.10.0.100/iqn.2026-01.lab.dsr:all/${unit#*:}" \
        "--dsr-config=$volumes.yaml"
done
pass direct-chap fig2-san-chap server1 "iscsi://redirector%server-secret-1@10.20.0.11/$target" --no-dsrd
pass redirected-chap fig2-san-chap client1 "iscsi://client%client-secret-1@10.10.0.100/$target"

differences=0
compare direct redirected
compare direct one-of-many
compare direct stripe "$volume_exceptions"
compare direct mirror "$volume_exceptions"
compare direct-chap redirected-chap
echo "results are in $results"
# Results that are equal because nothing ran say nothing.
for file in direct redirected one-of-many stripe mirror direct-chap redirected-chap; do
    grep -qE '^(PASS|FAIL|SKIP)' "$results/$file" || fail "no test of $file came to a result"
done
[ $differences = 0 ]
