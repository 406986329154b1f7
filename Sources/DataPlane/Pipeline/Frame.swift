/// One Ethernet frame in memory that somebody else owns (a port's receive buffer, a pool, a test).
///
/// Layout, the same for every port so that a frame goes from one to another without a copy:
///
///     start - headroom ... start - 10: spare      start - 10: virtio header      start: Ethernet header
///
/// `length` octets from `start` are the frame. At least `Frame.headroom` octets before `start` may be
/// written, so that a VLAN tag can be pushed in place. GSO frames are up to 64 KiB + headers long.
public struct Frame {
    public var start: UnsafeMutableRawPointer
    public var length: Int

    @inlinable public init(start: UnsafeMutableRawPointer, length: Int) {
        self.start = start
        self.length = length
    }

    /// Octets before `start` that every owner provides.
    public static let headroom = 32
    /// Longest frame that a port receives: 64 KiB of IP, Ethernet, two tags.
    public static let maximumLength = 65_536 + 14 + 8
    /// Octets that a buffer for one frame takes, headroom included.
    public static let bufferSize = headroom + maximumLength + 190

    /// The virtio header of this frame.
    @inlinable public var offload: VirtioHeader {
        get { VirtioHeader(address: start - VirtioHeader.size) }
        nonmutating set { newValue.store(to: start - VirtioHeader.size) }
    }
}

/// `struct virtio_net_hdr` (virtio 1.2 section 5.1.6), 10 octets, host byte order: what checksum and
/// segmentation work is still to be done on a frame.
public struct VirtioHeader: Equatable, Sendable {
    public static let size = 10

    public var flags: UInt8 = 0
    public var segmentationType: UInt8 = 0
    public var headerLength: UInt16 = 0
    public var segmentSize: UInt16 = 0
    public var checksumStart: UInt16 = 0
    public var checksumOffset: UInt16 = 0

    public static let needsChecksum: UInt8 = 1  // VIRTIO_NET_HDR_F_NEEDS_CSUM
    public static let dataValid: UInt8 = 2  // VIRTIO_NET_HDR_F_DATA_VALID
    public static let segmentationNone: UInt8 = 0
    public static let segmentationTCPv4: UInt8 = 1
    public static let segmentationUDP: UInt8 = 3
    public static let segmentationTCPv6: UInt8 = 4
    public static let segmentationUDPv5: UInt8 = 5  // VIRTIO_NET_HDR_GSO_UDP_L4

    /// No offload: checksums are complete, one segment.
    public init() {}

    /// The transport checksum field holds only the pseudo-header sum (CHECKSUM_PARTIAL).
    @inlinable public var isChecksumPartial: Bool { flags & Self.needsChecksum != 0 }
    /// The frame stands for several segments of `segmentSize` octets of payload.
    @inlinable public var isSegmented: Bool { segmentationType & 0x7f != 0 }

    @inlinable init(address: UnsafeMutableRawPointer) {
        flags = address.loadUnaligned(fromByteOffset: 0, as: UInt8.self)
        segmentationType = address.loadUnaligned(fromByteOffset: 1, as: UInt8.self)
        headerLength = address.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
        segmentSize = address.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
        checksumStart = address.loadUnaligned(fromByteOffset: 6, as: UInt16.self)
        checksumOffset = address.loadUnaligned(fromByteOffset: 8, as: UInt16.self)
    }

    @inlinable func store(to address: UnsafeMutableRawPointer) {
        address.storeBytes(of: flags, toByteOffset: 0, as: UInt8.self)
        address.storeBytes(of: segmentationType, toByteOffset: 1, as: UInt8.self)
        address.storeBytes(of: headerLength, toByteOffset: 2, as: UInt16.self)
        address.storeBytes(of: segmentSize, toByteOffset: 4, as: UInt16.self)
        address.storeBytes(of: checksumStart, toByteOffset: 6, as: UInt16.self)
        address.storeBytes(of: checksumOffset, toByteOffset: 8, as: UInt16.self)
    }
}
