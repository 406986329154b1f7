/// A dictionary with a bound that forgets what was not used for long: two of them, of which the older is thrown away
/// whole when the younger has half of the bound. What is used moves to the younger. So nothing that was among the last
/// half of the bound to be used is ever forgotten, and no operation costs more than another on average.
package struct NFSRecentTable<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    private var young: [Key: Value] = [:]
    private var old: [Key: Value] = [:]
    /// Entries at most.
    private let maximum: Int

    package init(maximum: Int) { self.maximum = max(2, maximum) }

    /// At least as many as there are.
    package var count: Int { young.count + old.count }

    /// Counts as use.
    package mutating func value(_ key: Key) -> Value? {
        if let value = young[key] { return value }
        guard let value = old.removeValue(forKey: key) else { return nil }
        put(value, key)
        return value
    }

    /// Does not count as use.
    package func peek(_ key: Key) -> Value? { young[key] ?? old[key] }

    package mutating func set(_ value: Value, for key: Key) {
        if young[key] != nil {
            young[key] = value
        } else {
            old[key] = nil
            put(value, key)
        }
    }

    package mutating func remove(_ key: Key) {
        young[key] = nil
        old[key] = nil
    }

    package mutating func removeAll(where condition: (Key, Value) -> Bool) {
        young = young.filter { !condition($0.key, $0.value) }
        old = old.filter { !condition($0.key, $0.value) }
    }

    private mutating func put(_ value: Value, _ key: Key) {
        if young.count >= maximum / 2 {
            old = young
            young = [:]
        }
        young[key] = value
    }
}
