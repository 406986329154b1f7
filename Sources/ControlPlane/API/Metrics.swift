/// One metric of the Prometheus text format, version 0.0.4.
public struct MetricFamily: Hashable, Sendable {
    public enum Kind: String, Sendable { case counter, gauge, histogram }

    public enum Value: Hashable, Sendable {
        /// Counters keep all 64 bits.
        case integer(UInt64)
        case real(Double)
        /// For families of kind histogram.
        case histogram(Histogram)
    }

    /// Counts of values by size.
    public struct Histogram: Hashable, Sendable {
        /// Upper bounds, growing; that of the last bucket, without a bound, is left out.
        public var bounds: [Double]
        /// Values that are not above the bound of the same index: cumulative.
        public var counts: [UInt64]
        /// All values, those above the last bound too.
        public var count: UInt64
        public var sum: Double

        /// - Parameter counts: missing ones are that of the bound before, excess ones do not count.
        public init(bounds: [Double], counts: [UInt64], count: UInt64, sum: Double) {
            self.bounds = bounds
            self.counts = bounds.indices.map { index in
                index < counts.count ? counts[index] : counts.last ?? 0
            }
            self.count = count
            self.sum = sum
        }
    }

    public struct Label: Hashable, Sendable {
        public var name: String
        public var value: String
        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    public struct Sample: Hashable, Sendable {
        public var labels: [Label]
        public var value: Value
        public init(labels: [Label] = [], _ value: Value) {
            self.labels = labels
            self.value = value
        }
    }

    /// `[a-zA-Z_:][a-zA-Z0-9_:]*`; a counter's ends in `_total`.
    public var name: String
    public var help: String
    public var kind: Kind
    public var samples: [Sample]

    public init(name: String, help: String, kind: Kind, samples: [Sample] = []) {
        self.name = name
        self.help = help
        self.kind = kind
        self.samples = samples
    }

    public mutating func add(_ value: UInt64, _ labels: Label...) {
        samples.append(Sample(labels: labels, .integer(value)))
    }

    public mutating func add(_ value: Double, _ labels: Label...) {
        samples.append(Sample(labels: labels, .real(value)))
    }

    public mutating func add(_ value: Histogram, _ labels: Label...) {
        samples.append(Sample(labels: labels, .histogram(value)))
    }
}

/// Writer of the Prometheus text format.
public enum MetricText {
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    public static func write(_ families: [MetricFamily]) -> String {
        var text = ""
        for family in families {
            text += "# HELP \(family.name) \(escaped(family.help, quotes: false))\n"
            text += "# TYPE \(family.name) \(family.kind.rawValue)\n"
            for sample in family.samples {
                switch sample.value {
                case .histogram(let histogram):
                    write(histogram, family.name, sample.labels, to: &text)
                case .integer(let value):
                    write(String(value), family.name, sample.labels, to: &text)
                case .real(let value):
                    write(number(value), family.name, sample.labels, to: &text)
                }
            }
        }
        return text
    }

    private static func write(
        _ value: String, _ name: String, _ labels: [MetricFamily.Label], to text: inout String
    ) {
        text += name
        if !labels.isEmpty {
            let labels = labels.map { "\($0.name)=\"\(escaped($0.value))\"" }
            text += "{\(labels.joined(separator: ","))}"
        }
        text += " \(value)\n"
    }

    private static func write(
        _ histogram: MetricFamily.Histogram, _ name: String, _ labels: [MetricFamily.Label],
        to text: inout String
    ) {
        func bucket(_ bound: Double, _ count: UInt64) {
            let label = MetricFamily.Label("le", number(bound))
            write(String(count), name + "_bucket", labels + [label], to: &text)
        }
        for (bound, count) in zip(histogram.bounds, histogram.counts) { bucket(bound, count) }
        bucket(.infinity, histogram.count)
        write(number(histogram.sum), name + "_sum", labels, to: &text)
        write(String(histogram.count), name + "_count", labels, to: &text)
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        return String(value)
    }

    private static func escaped(_ text: String, quotes: Bool = true) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
