/// A seeded generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): a
/// failing test fails again.
package struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    package mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) }
    }

    /// Changes, takes away or puts in one octet; what is put in is one of `inserted`.
    package mutating func mutate(_ text: inout [UInt8], inserting inserted: String) {
        guard !text.isEmpty else { return }
        let place = below(text.count)
        switch below(3) {
        case 0: text[place] = UInt8(truncatingIfNeeded: next())
        case 1: text.remove(at: place)
        default: text.insert(Array(inserted.utf8).randomElement(using: &self) ?? 0, at: place)
        }
    }

    package mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(max(1, limit))) }
}
