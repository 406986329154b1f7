public import StorageProtocols

/// The text format in which Prometheus is told metrics (exposition format 0.0.4).
public enum PrometheusText {
    /// Octets that are read.
    public static let lengthMaximum = 4 << 20

    public struct Sample: Hashable, Sendable {
        public var name: String
        public var labels: [String: String]
        public var value: Double

        public init(name: String, labels: [String: String] = [:], value: Double) {
            self.name = name
            self.labels = labels
            self.value = value
        }
    }

    /// All samples; lines that are none are passed over. With `names`, only those metrics.
    public static func samples(
        _ text: some Sequence<UInt8>, names: Set<String>? = nil
    ) -> [Sample] {
        Array(text).split(separator: UInt8(ascii: "\n")).compactMap { line in
            var reader = Line(line)
            return reader.sample(names)
        }
    }

    private struct Line {
        private var rest: ArraySlice<UInt8>
        init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

        // `name{label="value",...} value [timestamp]`
        mutating func sample(_ names: Set<String>?) -> Sample? {
            skipSpace()
            guard let first = rest.first, first != UInt8(ascii: "#") else { return nil }
            let name = word { $0 == UInt8(ascii: "{") }
            guard !name.isEmpty, names?.contains(name) ?? true else { return nil }
            skipSpace()
            var labels: [String: String] = [:]
            if rest.first == UInt8(ascii: "{") {
                rest.removeFirst()
                guard let read = self.labels() else { return nil }
                labels = read
            }
            skipSpace()
            // "+Inf", "NaN" and so on are taken too.
            guard let value = Double(word { _ in false }) else { return nil }
            skipSpace()
            let timestamp = word { _ in false }
            guard timestamp.isEmpty || Int64(timestamp) != nil else { return nil }
            return Sample(name: name, labels: labels, value: value)
        }

        private mutating func labels() -> [String: String]? {
            var result: [String: String] = [:]
            while true {
                skipSpace()
                if rest.first == UInt8(ascii: "}") {
                    rest.removeFirst()
                    return result
                }
                let name = word { $0 == UInt8(ascii: "=") }
                skipSpace()
                guard !name.isEmpty, rest.popFirst() == UInt8(ascii: "=") else { return nil }
                skipSpace()
                guard rest.popFirst() == UInt8(ascii: "\""), let value = quoted() else {
                    return nil
                }
                result[name] = value
                skipSpace()
                if rest.first == UInt8(ascii: ",") { rest.removeFirst() }
            }
        }

        /// Up to the closing quotation mark, which goes too.
        private mutating func quoted() -> String? {
            var bytes: [UInt8] = []
            while let byte = rest.popFirst() {
                switch byte {
                case UInt8(ascii: "\""): return String(decoding: bytes, as: UTF8.self)
                case UInt8(ascii: "\\"):
                    guard let escaped = rest.popFirst() else { return nil }
                    bytes.append(escaped == UInt8(ascii: "n") ? UInt8(ascii: "\n") : escaped)
                default: bytes.append(byte)
                }
            }
            return nil
        }

        private mutating func word(_ isEnd: (UInt8) -> Bool) -> String {
            let bytes = rest.prefix { !isEnd($0) && !Self.isSpace($0) }
            rest = rest[bytes.endIndex...]
            return String(decoding: bytes, as: UTF8.self)
        }

        private mutating func skipSpace() { rest = rest.drop(while: Self.isSpace) }
        private static func isSpace(_ byte: UInt8) -> Bool {
            byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\r")
        }
    }

    // MARK: node_exporter

    private static let nodeMetrics: Set = [
        "node_cpu_seconds_total", "node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes",
        "node_load1", "node_network_receive_bytes_total", "node_network_transmit_bytes_total",
    ]

    /// What node_exporter says of a machine; nil when processors or memory are not told.
    public static func load(_ text: some Sequence<UInt8>) -> LoadSample? {
        var result = LoadSample()
        var cores: Set<String> = []
        for sample in samples(text, names: nodeMetrics) where sample.value.isFinite {
            switch sample.name {
            case "node_cpu_seconds_total":
                cores.insert(sample.labels["cpu"] ?? "")
                let mode = sample.labels["mode"]
                result.cpuTotal += sample.value
                if mode == "idle" || mode == "iowait" { result.cpuIdle += sample.value }
            case "node_memory_MemTotal_bytes": result.memoryTotal = sample.value
            case "node_memory_MemAvailable_bytes": result.memoryAvailable = sample.value
            case "node_load1": result.runQueue = sample.value
            default:
                if sample.labels["device"] != "lo" { result.networkOctets += sample.value }
            }
        }
        result.cores = cores.count
        guard result.cpuTotal > 0, result.memoryTotal > 0 else { return nil }
        return result
    }
}
