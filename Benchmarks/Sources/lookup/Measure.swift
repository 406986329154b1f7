import Glibc

struct Measurement {
    var name: String
    /// ns for each packet or look-up, by round.
    var values: [Double]
    var median: Double { values.sorted()[values.count / 2] }
}

private func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// Rounds alternate over the cases, so that a slow spell of the machine meets all of them.
func measure(_ cases: [(String, Case)], rounds: Int) -> [Measurement] {
    let bursts = 20_000
    var results = cases.map { Measurement(name: $0.0, values: []) }
    // Memory and predictors warm up.
    for (_, one) in cases { _ = one.run(bursts) }
    for _ in 0..<rounds {
        for (index, one) in cases.enumerated() {
            let start = nanoseconds()
            let done = one.1.run(bursts)
            let time = nanoseconds() - start
            guard done == bursts * 64 else {
                print("\(one.0): \(done) of \(bursts * 64) were done")
                fail()
            }
            results[index].values.append(Double(time) / Double(done))
        }
    }
    return results
}

func decimal(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let rest = hundredths % 100
    return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
}

/// - Parameter unit: what was done.
func printTable(
    _ title: String, _ results: [Measurement], unit: String = "packet", reference: String
) {
    guard let base = results.first(where: { $0.name == reference }) else { return }
    func row(_ cells: [String]) {
        print(
            "| "
                + cells.map { String(repeating: " ", count: max(0, 10 - $0.count)) + $0 }
                .joined(separator: " | ") + " |")
    }
    row([title, "ns/\(unit)", "least", "most", "million/s", "ratio"])
    row([String](repeating: "---------:", count: 6))
    for result in results {
        row([
            result.name, decimal(result.median), decimal(result.values.min() ?? 0),
            decimal(result.values.max() ?? 0), decimal(1_000 / result.median),
            decimal(result.median / base.median),
        ])
    }
}

/// Says whether a million cost at most three times as much as a thousand.
func checkGrowth(_ title: String, _ results: [Measurement]) -> Bool {
    guard let million = results.first(where: { $0.name == "1000000" }),
        let thousand = results.first(where: { $0.name == "1000" })
    else { fatalError("a case is missing") }
    let ratio = million.median / thousand.median
    print(
        "1000000 \(title) cost \(decimal(ratio)) times as much as 1000; at most 3.00 is wanted.")
    return ratio <= 3
}

func fail() -> Never { exit(1) }
