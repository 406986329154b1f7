/// What an exact flow does: hands the packet to a splice, or runs an action list.
enum FlowTarget: Equatable {
    case splice(SpliceID, SpliceSide)
    /// Index into the pipeline's action lists.
    case actions(UInt32)
}

/// Exact flows: open addressing in raw memory, one cache line for each slot (key, target, counters).
/// (Contract stub: the real table replaces this file.)
struct FlowTable: ~Copyable {
    init(capacity: Int) {}
    /// False when the table is full or the key is there already.
    mutating func insert(_ key: FlowKey, _ target: FlowTarget) -> Bool { false }
    /// False when the key is not there.
    mutating func remove(_ key: FlowKey) -> Bool { false }
    func contains(_ key: FlowKey) -> Bool { false }
}
