import CLinux
import Glibc

/// A TAP device with virtio header: how the kernel's own TCP/IP stack is attached to the switch. It goes
/// when its descriptor is closed, so nothing is left behind by a daemon that was killed.
public final class TAPPort: Port {
    public let name: String
    public let macAddress: MACAddress
    public private(set) var pollDescriptor: Int32 = -1
    public private(set) var isUp = false
    public private(set) var interfaceIndex: Int32 = 0
    public private(set) var deviceCounters = PortDeviceCounters()
    public var needsPolling: Bool { false }
    private let mtu: Int
    private let link: DeviceLink
    private let isWatched: Bool
    private let buffers = FrameBuffers(count: burst)
    private static let burst = 64

    /// Makes the device and brings it up. Throws when the name is taken or the kernel refuses.
    /// `watch` looks at the device in our place; nil: `maintain` asks the kernel.
    public init(name: String, macAddress: MACAddress, mtu: Int = 0, watch: LinkWatch? = nil)
        throws(PortError)
    {
        self.name = name
        self.macAddress = macAddress
        self.mtu = mtu
        link = DeviceLink(device: name)
        isWatched = watch != nil
        try reopen()
        watch?.add(link)
    }

    deinit { if pollDescriptor >= 0 { close(pollDescriptor) } }

    /// Makes the device anew after it was deleted from outside; addresses must be set again.
    public func reopen() throws(PortError) {
        if pollDescriptor >= 0 { close(pollDescriptor) }
        pollDescriptor = -1
        isUp = false
        guard name.utf8.count < Int(IFNAMSIZ) else {
            throw PortError(port: name, message: "a device name has at most 15 characters")
        }
        var octets = [UInt8](repeating: 0, count: 6)
        for index in 0..<6 {
            octets[index] = UInt8(
                truncatingIfNeeded: macAddress.rawValue >> UInt64(40 - index * 8))
        }
        let descriptor = dsr_tap_open(name, octets, Int32(mtu), &interfaceIndex)
        guard descriptor >= 0 else {
            throw PortError(port: name, operation: "TAP device", errno: -descriptor)
        }
        pollDescriptor = descriptor
        link.look()
        isUp = true
    }

    public func receive(
        into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64
    ) -> Int {
        guard pollDescriptor >= 0 else { return 0 }
        var frames = 0
        while frames < min(limit, Self.burst) {
            let start = buffers.start(frames)
            let count = read(
                pollDescriptor, start - VirtioHeader.size,
                Frame.maximumLength + VirtioHeader.size)
            guard count > 0 else { break }
            guard count > VirtioHeader.size else {
                deviceCounters.receiveTruncated &+= 1
                continue
            }
            burst[frames] = Frame(start: start, length: count - VirtioHeader.size)
            frames += 1
        }
        return frames
    }

    /// A TAP device takes one frame for each call: there is nothing to queue.
    public func transmit(_ frame: Frame, now: UInt64) {
        guard pollDescriptor >= 0 else {
            deviceCounters.transmitDrops &+= 1
            return
        }
        let written = write(
            pollDescriptor, frame.start - VirtioHeader.size, frame.length + VirtioHeader.size)
        if written < 0 { deviceCounters.transmitDrops &+= 1 }
    }

    public func flush(now: UInt64) {}

    public func maintain(now: UInt64) -> Bool {
        if !isWatched { link.look() }
        let state = link.newest
        let up = state.interfaceIndex == interfaceIndex && state.isUp
        defer { isUp = up }
        return up != isUp
    }
}
