import Glibc

private func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return .nan }
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

private func text(_ value: Double, _ digits: Int32 = 2) -> String {
    guard value.isFinite else { return "-" }
    var buffer = [CChar](repeating: 0, count: 32)
    withVaList([digits, value]) { _ = vsnprintf(&buffer, 32, "%.*f", $0) }
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

private func row(_ cells: [String]) -> String { "| " + cells.joined(separator: " | ") + " |" }

/// Prints medians by peer and kind, and the ratio of each median of "dsr" to each peer's.
func table(_ path: String) {
    guard let file = fopen(path, "r") else { fail(path) }
    defer { fclose(file) }
    var values: [String: [Double]] = [:]
    var cpu: [String: [Double]] = [:]
    var peers: [String] = []
    var kinds: [String] = []
    var line = [CChar](repeating: 0, count: 512)
    while fgets(&line, 512, file) != nil {
        let fields = String(
            decoding: line.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) },
            as: UTF8.self
        ).split(separator: " ").map(String.init)
        guard fields.count == 4, let value = Double(fields[2]), let spent = Double(fields[3]) else {
            continue
        }
        if !peers.contains(fields[0]) { peers.append(fields[0]) }
        if !kinds.contains(fields[1]) { kinds.append(fields[1]) }
        values[fields[0] + " " + fields[1], default: []].append(value)
        if spent > 0 { cpu[fields[0] + " " + fields[1], default: []].append(spent) }
    }
    let bulks = kinds.filter { $0.hasPrefix("bulk") }
    print(row(["median"] + kinds + bulks.map { "CPU s/GB \($0)" }))
    print(row([String](repeating: "---", count: 1 + kinds.count + bulks.count)))
    for peer in peers {
        print(
            row(
                [peer] + kinds.map { text(median(values["\(peer) \($0)"] ?? [])) }
                    + bulks.map { text(median(cpu["\(peer) \($0)"] ?? []), 3) }))
    }
    print("")
    print(row(["dsr /"] + kinds + bulks.map { "CPU \($0)" }))
    print(row([String](repeating: "---", count: 1 + kinds.count + bulks.count)))
    for peer in peers where peer != "dsr" {
        print(
            row(
                [peer]
                    + kinds.map {
                        text(
                            median(values["dsr \($0)"] ?? [])
                                / median(values["\(peer) \($0)"] ?? []))
                    }
                    + bulks.map {
                        text(median(cpu["dsr \($0)"] ?? []) / median(cpu["\(peer) \($0)"] ?? []))
                    }))
    }
}
