/// Key=value pairs of login and text PDUs (RFC 7143 section 6.1), in order.
public struct ISCSIText: Equatable, Sendable {
    public var pairs: [(key: String, value: String)] = []
    /// Octets of one login or text exchange that are accepted.
    public static let maximumLength = 65_536
    /// Keys of one login or text exchange that are accepted: RFC 7143 knows less than 40.
    public static let maximumPairs = 512

    public init() {}
    public init(_ pairs: [(String, String)]) { self.pairs = pairs.map { (key: $0.0, value: $0.1) } }

    // RFC 7143 section 6.1: "key-value pair [...] key=value<nul>"; "The key-name [...] MUST NOT exceed 63
    // bytes"; "It is an error [...] to negotiate the same parameter twice".
    /// Parses NUL-separated pairs.
    public init(_ bytes: [UInt8]) throws(ISCSIError) {
        guard bytes.count <= Self.maximumLength else { throw .malformedText("too long") }
        for part in bytes.split(separator: 0) {
            guard pairs.count < Self.maximumPairs else {
                throw .malformedText("more than \(Self.maximumPairs) keys")
            }
            guard let equals = part.firstIndex(of: UInt8(ascii: "=")) else {
                let start = String(decoding: part.prefix(64), as: UTF8.self)
                throw .malformedText("no '=' in \"\(start)\"")
            }
            let key = String(decoding: part[..<equals], as: UTF8.self)
            guard !key.isEmpty, key.utf8.count <= 63 else {
                throw .malformedText("key of \(key.utf8.count) octets")
            }
            if self[key] != nil { throw .malformedText("key \(key) twice") }
            pairs.append((key, String(decoding: part[(equals + 1)...], as: UTF8.self)))
        }
    }

    public subscript(_ key: String) -> String? {
        get { pairs.first { $0.key == key }?.value }
        set {
            pairs.removeAll { $0.key == key }
            if let newValue { pairs.append((key, newValue)) }
        }
    }

    public var isEmpty: Bool { pairs.isEmpty }

    public func encoded() -> [UInt8] {
        pairs.flatMap { Array("\($0.key)=\($0.value)".utf8) + [0] }
    }

    public static func == (left: ISCSIText, right: ISCSIText) -> Bool {
        left.pairs.map(\.key) == right.pairs.map(\.key)
            && left.pairs.map(\.value) == right.pairs.map(\.value)
    }

    /// A numerical value, decimal or hexadecimal with 0x; nil when it is neither.
    public static func number(_ value: String) -> UInt64? {
        if value.hasPrefix("0x") || value.hasPrefix("0X") {
            // Swift takes a sign where iSCSI has none.
            let digits = value.dropFirst(2)
            return digits.first?.isHexDigit == true ? UInt64(digits, radix: 16) : nil
        }
        return value.first?.isNumber == true ? UInt64(value) : nil
    }

    /// A binary value, hexadecimal with 0x or base64 with 0b; nil when it is neither.
    public static func binary(_ value: String) -> [UInt8]? {
        let digits = value.dropFirst(2)
        if value.hasPrefix("0x") || value.hasPrefix("0X") {
            guard digits.allSatisfy(\.isHexDigit) else { return nil }
            var text = Array(digits.utf8)
            if text.count % 2 == 1 { text.insert(UInt8(ascii: "0"), at: 0) }
            var bytes: [UInt8] = []
            for index in stride(from: 0, to: text.count, by: 2) {
                guard
                    let octet = UInt8(
                        String(decoding: text[index..<index + 2], as: UTF8.self), radix: 16)
                else { return nil }
                bytes.append(octet)
            }
            return bytes
        }
        guard value.hasPrefix("0b") || value.hasPrefix("0B") else { return nil }
        return base64(digits.utf8)
    }

    private static func base64(_ text: some Sequence<UInt8>) -> [UInt8]? {
        var bytes: [UInt8] = []
        var bits: UInt32 = 0
        var count = 0
        for character in text {
            let value: UInt32
            switch character {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = UInt32(character) - 65
            case UInt8(ascii: "a")...UInt8(ascii: "z"): value = UInt32(character) - 71
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = UInt32(character) + 4
            case UInt8(ascii: "+"): value = 62
            case UInt8(ascii: "/"): value = 63
            case UInt8(ascii: "="): return bytes
            default: return nil
            }
            bits = bits << 6 | value
            count += 6
            if count >= 8 {
                count -= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
            }
        }
        return bytes
    }

    public static func hex(_ bytes: [UInt8]) -> String {
        "0x" + bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
