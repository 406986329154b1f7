// Loads and stores in network byte order at any alignment. Callers have checked the length once.

extension UnsafeRawPointer {
    @inlinable @inline(__always) package func load8(_ offset: Int) -> UInt8 {
        loadUnaligned(fromByteOffset: offset, as: UInt8.self)
    }
    @inlinable @inline(__always) package func load16(_ offset: Int) -> UInt16 {
        UInt16(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }
    @inlinable @inline(__always) package func load32(_ offset: Int) -> UInt32 {
        UInt32(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
    @inlinable @inline(__always) package func load64(_ offset: Int) -> UInt64 {
        UInt64(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
}

extension UnsafeMutableRawPointer {
    @inlinable @inline(__always) package func load8(_ offset: Int) -> UInt8 {
        UnsafeRawPointer(self).load8(offset)
    }
    @inlinable @inline(__always) package func load16(_ offset: Int) -> UInt16 {
        UnsafeRawPointer(self).load16(offset)
    }
    @inlinable @inline(__always) package func load32(_ offset: Int) -> UInt32 {
        UnsafeRawPointer(self).load32(offset)
    }
    @inlinable @inline(__always) package func load64(_ offset: Int) -> UInt64 {
        UnsafeRawPointer(self).load64(offset)
    }
    @inlinable @inline(__always) package func store8(_ value: UInt8, _ offset: Int) {
        storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }
    @inlinable @inline(__always) package func store16(_ value: UInt16, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }
    @inlinable @inline(__always) package func store32(_ value: UInt32, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }
    @inlinable @inline(__always) package func store64(_ value: UInt64, _ offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt64.self)
    }
    /// The six octets of a MAC address.
    @inlinable @inline(__always) package func loadMAC(_ offset: Int) -> MACAddress {
        MACAddress(rawValue: UInt64(load16(offset)) << 32 | UInt64(load32(offset + 2)))
    }
    @inlinable @inline(__always) package func storeMAC(_ value: MACAddress, _ offset: Int) {
        store16(UInt16(truncatingIfNeeded: value.rawValue >> 32), offset)
        store32(UInt32(truncatingIfNeeded: value.rawValue), offset + 2)
    }
}
