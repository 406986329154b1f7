/// The same seed gives the same inputs.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed }

    /// Of one execution of a run: each can be repeated alone.
    init(seed: UInt64, execution: UInt64) {
        self.init(seed &+ execution &* 0xd6e8_feb8_6659_fd93)
        _ = next()
    }

    mutating func next() -> UInt64 {
        // SplitMix64.
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }

    mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &self) }
    mutating func octet() -> UInt8 { UInt8(truncatingIfNeeded: next()) }
    mutating func octets(_ count: Int) -> [UInt8] { (0..<count).map { _ in octet() } }
    mutating func chance(_ oneIn: Int) -> Bool { number(1...oneIn) == 1 }
    mutating func pick<Value>(_ values: [Value]) -> Value {
        values[number(0...values.count - 1)]
    }

    /// The seed with a few changes; sometimes none.
    mutating func mutated(_ seed: [UInt8], words: [[UInt8]] = []) -> [UInt8] {
        var bytes = seed
        for _ in 0..<number(0...6) { change(&bytes, words) }
        return bytes
    }

    private mutating func change(_ bytes: inout [UInt8], _ words: [[UInt8]]) {
        guard !bytes.isEmpty else { return bytes = octets(number(1...64)) }
        let place = number(0...bytes.count - 1)
        let end = min(bytes.count, place + number(1...16))
        switch number(0...11) {
        case 0: bytes[place] = octet()
        case 1: bytes[place] ^= 1 << UInt8(number(0...7))
        case 2: bytes[place] = pick([0, 1, 0x7f, 0x80, 0xff])
        case 3: bytes.removeSubrange(place..<end)
        case 4: bytes.insert(contentsOf: octets(number(1...8)), at: place)
        case 5: bytes.insert(contentsOf: bytes[place..<end], at: place)
        case 6: bytes.removeSubrange(place...)
        case 7: for index in place..<end { bytes[index] = 0xff }
        case 8 where !words.isEmpty: bytes.insert(contentsOf: pick(words), at: place)
        case 9, 10: replaceToken(&bytes, at: place, words)
        default: bytes.swapAt(place, number(0...bytes.count - 1))
        }
    }

    /// Texts break where a whole value is missing or is another: single octets seldom get there.
    private mutating func replaceToken(_ bytes: inout [UInt8], at place: Int, _ words: [[UInt8]]) {
        let delimiters = Array(" ,=:/\n{}[]\"\0".utf8)
        let start = (bytes[..<place].lastIndex { delimiters.contains($0) } ?? -1) + 1
        let end = bytes[place...].firstIndex { delimiters.contains($0) } ?? bytes.count
        guard start <= end else { return }
        bytes.replaceSubrange(start..<end, with: words.isEmpty || chance(2) ? [] : pick(words))
    }
}
