// Look-up and rewrite in memory: ns for each packet by number of flows and of rule masks.
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

        guard let million = flows.first(where: { $0.name == "1000000" }),
            let thousand = flows.first(where: { $0.name == "1000" })
        else { fatalError("a case is missing") }
        let ratio = million.median / thousand.median
        print(
            "\n1000000 flows cost \(decimal(ratio)) times as much as 1000; at most 3.00 is wanted.")
        if ratio > 3 { fail() }
    }
}
