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

/// What the runs gave, by peer and kind, from a file of lines "PEER KIND VALUE CPU".
struct Results {
    private var values: [String: [Double]] = [:]
    private var cpuSeconds: [String: [Double]] = [:]
    private var peers: [String] = []
    private var kinds: [String] = []
    /// Kinds of which CPU seconds are told.
    private var charged: [String] = []

    init(file path: String) {
        guard let file = fopen(path, "r") else { fail(path) }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 512)
        while fgets(&line, 512, file) != nil {
            let fields = String(
                decoding: line.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) },
                as: UTF8.self
            ).split(separator: " ").map(String.init)
            guard fields.count == 4, let value = Double(fields[2]), let spent = Double(fields[3])
            else { continue }
            add(fields[0], fields[1], value, spent)
        }
    }

    private mutating func add(_ peer: String, _ kind: String, _ value: Double, _ spent: Double) {
        if !peers.contains(peer) { peers.append(peer) }
        if !kinds.contains(kind) { kinds.append(kind) }
        values["\(peer) \(kind)", default: []].append(value)
        guard spent > 0 else { return }
        if !charged.contains(kind) { charged.append(kind) }
        cpuSeconds["\(peer) \(kind)", default: []].append(spent)
    }

    private func value(_ peer: String, _ kind: String) -> Double {
        median(values["\(peer) \(kind)"] ?? [])
    }

    private func cpu(_ peer: String, _ kind: String) -> Double {
        median(cpuSeconds["\(peer) \(kind)"] ?? [])
    }

    /// Prints medians by peer and kind, and the ratio of each median of `subject` to each peer's.
    func printTable(subject: String) {
        let rule = row([String](repeating: "---", count: 1 + kinds.count + charged.count))
        print(row(["median"] + kinds + charged.map { "CPU s/GB \($0)" }))
        print(rule)
        for peer in peers {
            let medians = kinds.map { text(value(peer, $0)) }
            print(row([peer] + medians + charged.map { text(cpu(peer, $0), 3) }))
        }
        print("")
        print(row(["\(subject) /"] + kinds + charged.map { "CPU \($0)" }))
        print(rule)
        for peer in peers where peer != subject {
            let ratios = kinds.map { text(value(subject, $0) / value(peer, $0)) }
            print(
                row([peer] + ratios + charged.map { text(cpu(subject, $0) / cpu(peer, $0)) }))
        }
    }

    /// Says whether the ratio of two medians is at least `wanted`.
    func require(_ wanted: Double, subject: String, peer: String, kind: String) -> Bool {
        let ratio = value(subject, kind) / value(peer, kind)
        let isMet = ratio >= wanted
        print(
            "\(kind): \(subject) / \(peer) = \(text(ratio)), wanted \(text(wanted)): "
                + (isMet ? "met" : "NOT MET"))
        return isMet
    }
}
