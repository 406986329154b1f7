import Glibc

struct Measurement {
    var name: String
    /// ns for each packet, by round.
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
            let packets = one.1.run(bursts)
            let time = nanoseconds() - start
            guard packets == bursts * 64 else {
                print("\(packets) of \(bursts * 64) packets came out")
                fail()
            }
            results[index].values.append(Double(time) / Double(packets))
        }
    }
    return results
}

func decimal(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let rest = hundredths % 100
    return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
}

func printTable(_ title: String, _ results: [Measurement], reference: String) {
    guard let base = results.first(where: { $0.name == reference }) else { return }
    func row(_ cells: [String]) {
        print(
            "| "
                + cells.map { String(repeating: " ", count: max(0, 10 - $0.count)) + $0 }
                .joined(separator: " | ") + " |")
    }
    row([title, "ns/packet", "least", "most", "Mpps", "ratio"])
    row([String](repeating: "---------:", count: 6))
    for result in results {
        row([
            result.name, decimal(result.median), decimal(result.values.min() ?? 0),
            decimal(result.values.max() ?? 0), decimal(1_000 / result.median),
            decimal(result.median / base.median),
        ])
    }
}

func fail() -> Never { exit(1) }
