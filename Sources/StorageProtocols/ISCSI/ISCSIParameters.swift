/// Operational parameters of a session (RFC 7143 section 13), with their defaults.
public struct ISCSIParameters: Equatable, Sendable {
    public var initialR2T = true
    public var immediateData = true
    public var maxBurstLength: UInt64 = 262_144
    public var firstBurstLength: UInt64 = 65_536
    public var maxOutstandingR2T: UInt64 = 1
    public var dataPDUInOrder = true
    public var dataSequenceInOrder = true
    public var defaultTime2Wait: UInt64 = 2
    public var defaultTime2Retain: UInt64 = 20
    public var errorRecoveryLevel: UInt64 = 0
    public var maxConnections: UInt64 = 1
    public init() {}

    /// How a key's result comes from both sides' values.
    enum Rule {
        case minimum(WritableKeyPath<ISCSIParameters, UInt64>, ClosedRange<UInt64>)
        case maximum(WritableKeyPath<ISCSIParameters, UInt64>, ClosedRange<UInt64>)
        case and(WritableKeyPath<ISCSIParameters, Bool>)
        case or(WritableKeyPath<ISCSIParameters, Bool>)
    }

    /// RFC 7143 section 13.
    nonisolated(unsafe) static let rules: [(key: String, rule: Rule)] = [
        ("InitialR2T", .or(\.initialR2T)),
        ("ImmediateData", .and(\.immediateData)),
        ("MaxBurstLength", .minimum(\.maxBurstLength, 512...16_777_215)),
        ("FirstBurstLength", .minimum(\.firstBurstLength, 512...16_777_215)),
        ("MaxOutstandingR2T", .minimum(\.maxOutstandingR2T, 1...65_535)),
        ("DataPDUInOrder", .or(\.dataPDUInOrder)),
        ("DataSequenceInOrder", .or(\.dataSequenceInOrder)),
        ("DefaultTime2Wait", .maximum(\.defaultTime2Wait, 0...3_600)),
        ("DefaultTime2Retain", .minimum(\.defaultTime2Retain, 0...3_600)),
        ("ErrorRecoveryLevel", .minimum(\.errorRecoveryLevel, 0...2)),
        ("MaxConnections", .minimum(\.maxConnections, 1...65_535)),
    ]

    static func rule(_ key: String) -> Rule? { rules.first { $0.key == key }?.rule }

    /// Text of a parameter's value.
    package func text(_ key: String) -> String? {
        guard let rule = Self.rule(key) else { return nil }
        switch rule {
        case .minimum(let path, _), .maximum(let path, _): return String(self[keyPath: path])
        case .and(let path), .or(let path): return self[keyPath: path] ? "Yes" : "No"
        }
    }

    /// Result of an offer against our own value; nil when the offer is not valid for the key.
    package func result(_ key: String, offer: String) -> String? {
        guard let rule = Self.rule(key) else { return nil }
        switch rule {
        case .minimum(let path, let range):
            guard let number = ISCSIText.number(offer), range.contains(number) else { return nil }
            return String(min(number, self[keyPath: path]))
        case .maximum(let path, let range):
            guard let number = ISCSIText.number(offer), range.contains(number) else { return nil }
            return String(max(number, self[keyPath: path]))
        case .and(let path):
            guard offer == "Yes" || offer == "No" else { return nil }
            return offer == "Yes" && self[keyPath: path] ? "Yes" : "No"
        case .or(let path):
            guard offer == "Yes" || offer == "No" else { return nil }
            return offer == "Yes" || self[keyPath: path] ? "Yes" : "No"
        }
    }

    /// Takes over an agreed value; false when it is not valid.
    package mutating func set(_ key: String, _ value: String) -> Bool {
        guard let rule = Self.rule(key) else { return false }
        switch rule {
        case .minimum(let path, let range), .maximum(let path, let range):
            guard let number = ISCSIText.number(value), range.contains(number) else { return false }
            self[keyPath: path] = number
        case .and(let path), .or(let path):
            guard value == "Yes" || value == "No" else { return false }
            self[keyPath: path] = value == "Yes"
        }
        return true
    }

    /// Keys whose values both legs of a session must share, since data moves by them.
    static let shared = [
        "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
        "DataPDUInOrder", "DataSequenceInOrder", "ErrorRecoveryLevel",
    ]
}

/// What a server was found to negotiate: learned by a probe, so that no server is asked while a client logs
/// in.
public struct ISCSIServerParameters: Equatable, Sendable {
    /// Results of the server for generous offers: its own limits.
    public var limits: ISCSIParameters
    /// What the server declared it can receive; nil: it declared nothing, so 8192 holds
    /// (RFC 7143 section 13.12).
    public var maxReceiveDataSegmentLength: UInt64?
    /// Commands that it takes ahead.
    public var commandWindow: UInt32

    public init(
        limits: ISCSIParameters = ISCSIParameters(), maxReceiveDataSegmentLength: UInt64? = nil,
        commandWindow: UInt32 = 32
    ) {
        self.limits = limits
        self.maxReceiveDataSegmentLength = maxReceiveDataSegmentLength
        self.commandWindow = commandWindow
    }

    /// What both take.
    public func common(with other: ISCSIServerParameters) -> ISCSIServerParameters {
        var result = self
        for (_, rule) in ISCSIParameters.rules {
            switch rule {
            case .minimum(let path, _):
                result.limits[keyPath: path] = min(
                    limits[keyPath: path], other.limits[keyPath: path])
            case .maximum(let path, _):
                result.limits[keyPath: path] = max(
                    limits[keyPath: path], other.limits[keyPath: path])
            case .and(let path):
                result.limits[keyPath: path] = limits[keyPath: path] && other.limits[keyPath: path]
            case .or(let path):
                result.limits[keyPath: path] = limits[keyPath: path] || other.limits[keyPath: path]
            }
        }
        result.maxReceiveDataSegmentLength = min(
            maxReceiveDataSegmentLength ?? 8_192, other.maxReceiveDataSegmentLength ?? 8_192)
        result.commandWindow = min(commandWindow, other.commandWindow)
        return result
    }
}
