#!/bin/bash
# Runs the tests that were built, and says at the end which failed, how many were left out, and why.
#   usage: test.sh [OPTIONS OF swift test]...
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${SWIFT:-swift}" test -c release --skip-build --no-parallel "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
# A line is: ➜ Test name() skipped: "reason"
awk '/ Test .* skipped[:.]/ {
    skipped++
    reason = "without a reason"
    if (match($0, /skipped: /)) reason = substr($0, RSTART + RLENGTH)
    count[reason]++
}
END {
    print "make test: " skipped + 0 " tests skipped"
    for (reason in count) print "  " count[reason] ": " reason
}' "$log"
# What failed once more, where nobody has to look for it in thousands of lines.
if [ "$status" -ne 0 ]; then
    echo "make test: failed:"
    grep -aE 'recorded an issue' "$log" | cut -c1-600
fi
exit "$status"
