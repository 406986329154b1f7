/// Hashes with a seed: collisions cannot be chosen from outside.
package struct SeededHash: Sendable {
    private let seed: (UInt64, UInt64)

    package init(seed: (UInt64, UInt64)) {
        // Seeds with few bits set would leave few in the hashes.
        self.seed = (
            Self.spread(seed.0 ^ 0x9e37_79b9_7f4a_7c15) | 1,
            Self.spread(seed.1 ^ 0xd1b5_4a32_d192_ed03) | 1
        )
    }

    /// One to one, each bit of the result of all bits of the value (the last steps of SplitMix64).
    private static func spread(_ value: UInt64) -> UInt64 {
        var value = value
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    @inline(__always)
    private func mix(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let (high, low) = left.multipliedFullWidth(by: right)
        return high ^ low
    }

    @inline(__always)
    package func word(_ value: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: mix(mix(value ^ seed.0, 0x9e37_79b9_7f4a_7c15), seed.1))
    }

    @inline(__always)
    package func endpoint(_ address: IPAddress, port: UInt16, kind: UInt8 = 0) -> UInt32 {
        let value = mix(address.low ^ seed.0, address.high ^ seed.1)
        let rest = UInt64(port) << 8 | UInt64(kind)
        return UInt32(truncatingIfNeeded: mix(value ^ rest, seed.1))
    }

    /// At least one octet. Each is read once or twice, none behind them.
    @inline(__always)
    package func octets(_ start: UnsafeRawPointer, count: Int) -> UInt32 {
        var value = seed.0 ^ UInt64(truncatingIfNeeded: count)
        var offset = 0
        while count &- offset > 16 {
            value = mix(start.load64(offset) ^ seed.1, start.load64(offset &+ 8) ^ value)
            offset &+= 16
        }
        // The last 1 ... 16 octets.
        let rest = count &- offset
        let first: UInt64
        let second: UInt64
        if rest >= 8 {
            first = start.load64(offset)
            second = start.load64(count &- 8)
        } else if rest >= 4 {
            first = UInt64(start.load32(offset))
            second = UInt64(start.load32(count &- 4))
        } else {
            first =
                UInt64(start.load8(offset)) << 16 | UInt64(start.load8(offset &+ rest / 2)) << 8
                | UInt64(start.load8(count &- 1))
            second = 0
        }
        return UInt32(truncatingIfNeeded: mix(mix(first ^ seed.1, second ^ value), seed.1))
    }
}
