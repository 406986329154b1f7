// Look-up and rewrite in memory: ns for each packet by number of flows, of rule masks and of file
// handles.
//
//     swift run --package-path Benchmarks -c release lookup [rounds]

import DataPlane

@main enum Lookup {
    static func main() {
        let rounds =
            CommandLine.arguments.count > 1 ? max(1, Int(CommandLine.arguments[1]) ?? 5) : 5

        print("Exact flows: look-up, address and port rewritten, checksums updated, output.")
        let flows = measure(
            [1, 1_000, 100_000, 1_000_000].map { ("\($0)", exactFlows($0)) }, rounds: rounds)
        printTable("flows", flows, reference: "1000")

        print("\nMasked rules: look-up in this many tuples, the last one matches, output.")
        let rules = measure([1, 10, 100].map { ("\($0)", maskedRules($0)) }, rounds: rounds)
        printTable("tuples", rules, reference: "1")

        let sizes = [1_000, 100_000, 1_000_000]
        print("\nFile handles of 28 to 40 octets: look-up in the table alone.")
        let handles = measure(sizes.map { ("\($0)", handleLookUps($0)) }, rounds: rounds)
        printTable("handles", handles, unit: "look-up", reference: "1000")

        print("\nNFS calls over UDP: client and file handle looked up, rewritten, output.")
        let calls = measure(sizes.map { ("\($0)", datagramCalls($0)) }, rounds: rounds)
        printTable("handles", calls, unit: "call", reference: "1000")

        print("")
        // Alone, a look-up in a table that no cache holds costs what memory costs: it is shown, and counts as a part of the
        // call that it is for, as that of a flow does.
        _ = checkGrowth("file handles looked up", handles)
        let isMet = [
            checkGrowth("flows", flows), checkGrowth("file handles of calls", calls),
        ]
        if isMet.contains(false) { fail() }
    }
}
