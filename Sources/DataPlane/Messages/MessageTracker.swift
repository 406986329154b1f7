struct PayloadDelta { var sum: UInt64 = 0 }
struct CompiledFormat {}
struct CompiledEdits {}
struct MessageTracker: ~Copyable {
    enum Verdict { case forward, forwardPrefix(Int), hold, malformed }
    var nextHeader: SequenceNumber { SequenceNumber(0) }
    mutating func inspect(payload: UnsafeMutableRawPointer, length: Int, sequence: SequenceNumber, delta: inout PayloadDelta, parityOffset: Int) -> Verdict { .forward }
    mutating func acknowledged(_ position: SequenceNumber) {}
    var isKindHeld: Bool { false }
}
extension MessageTracker {
    static func accepts(_ messages: SpliceMessages) -> Bool { true }
    static func make(_ format: MessageFormat, edits: [MessageEdit], holdKinds: UInt64, nextHeader: SequenceNumber) -> UnsafeMutablePointer<MessageTracker>? { nil }
}
