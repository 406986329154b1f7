import CLinux
import Glibc

/// A network device through a packet socket (packet(7)), with virtio header: GSO frames of 64 KiB and
/// unfinished checksums pass through untouched.
public final class PacketSocketPort: Port {
    public struct Options: Sendable {
        public enum Receive: Sendable {
            /// recvmmsg into buffers.
            case batched
            /// TPACKET_V2 ring in shared memory: better for many small packets.
            case ring
        }
        public var receive = Receive.batched
        /// Octets of the socket's buffers; the defaults of the kernel drop GSO bursts.
        public var bufferSize = 64 << 20
        /// Slots of the ring, each 68 KiB.
        public var ringSlots = 512
        /// The device may be missing at the start: joined when it comes.
        public var mayBeAbsent = false
        /// Looks at the link in our place; nil: `maintain` asks the kernel.
        public var watch: LinkWatch?
        /// Descriptor of an eBPF program that says which packets are not for this port; nil: all are.
        public var filter: Int32?
        public init() {}
    }

    public let name: String
    public let device: String
    public var pollDescriptor: Int32 { state.pointee.descriptor }
    public var isUp: Bool { state.pointee.isUp }
    public private(set) var deviceCounters = PortDeviceCounters()
    /// MTU of the device when it was looked at last, 0 while it is gone.
    public private(set) var mtu = 0
    public var needsPolling: Bool { false }

    private let options: Options
    private let link: DeviceLink
    /// What `maintain` told last.
    private var toldUp = false
    private var interfaceIndex: Int32 = 0
    private let queue = UnsafeMutablePointer<Frame>.allocate(
        capacity: PacketSocketPort.queueCapacity)
    private static let queueCapacity = 256
    /// Nil: the kernel does not know how.
    private let merging: DatagramMerging?
    /// What every packet needs, in raw memory: that nobody else uses it at the same time need not be checked.
    private let state = UnsafeMutablePointer<State>.allocate(capacity: 1)
    private struct State {
        var descriptor: Int32 = -1
        var isUp = false
        var received = dsr_batch()
        var sending = dsr_batch()
        var queued = 0
        /// Frames to ask for at once. Many small ones share the cost of a system call; few large ones, or
        /// megabytes pass through here before the first acknowledgement is looked at, and the sender waits.
        var burstLimit = 8
    }
    private let buffers: FrameBuffers?
    private var ring: UnsafeMutableRawPointer?
    private var ringPosition = 0
    private var ringTaken = 0
    private static let burst = 64
    /// Octets of a burst: 8 GSO frames. Measured: 1 frame at a time costs a quarter of the throughput.
    private static let burstOctets = 512 << 10
    private static let ringSlot = 69_632

    /// Opens `device`. Throws when it does not exist (unless that is allowed) or the socket is refused.
    public init(name: String, device: String, options: Options = Options()) throws(PortError) {
        self.name = name
        self.device = device
        self.options = options
        link = DeviceLink(device: device)
        buffers = options.receive == .batched ? FrameBuffers(count: Self.burst) : nil
        merging = KernelVersion.running >= .udpSegmentation ? DatagramMerging() : nil
        state.initialize(to: State())
        dsr_batch_init(&state.pointee.received, UInt32(Self.burst), 1)
        dsr_batch_init(&state.pointee.sending, UInt32(Self.queueCapacity), 0)
        if let buffers {
            for index in 0..<Self.burst {
                dsr_batch_set(
                    &state.pointee.received, UInt32(index),
                    buffers.start(index) - VirtioHeader.size,
                    Frame.maximumLength + VirtioHeader.size)
            }
        }
        do {
            try open()
        } catch  where options.mayBeAbsent {}
        toldUp = isUp
        options.watch?.add(link)
    }

    deinit {
        shut()
        dsr_batch_free(&state.pointee.received)
        dsr_batch_free(&state.pointee.sending)
        state.deallocate()
        queue.deallocate()
    }

    private func open() throws(PortError) {
        let descriptor = dsr_packet_open(device, Int32(options.bufferSize), &interfaceIndex)
        guard descriptor >= 0 else {
            throw PortError(port: name, operation: "packet socket on \(device)", errno: -descriptor)
        }
        state.pointee.descriptor = descriptor
        if options.receive == .ring { try openRing() }
        if let filter = options.filter {
            let result = dsr_shortcut_filter(descriptor, filter)
            guard result == 0 else {
                shut()
                throw PortError(port: name, operation: "socket filter", errno: -result)
            }
        }
        let bound = dsr_packet_bind(descriptor, interfaceIndex)
        guard bound == 0 else {
            shut()
            throw PortError(port: name, operation: "bind to \(device)", errno: -bound)
        }
        link.look()
        readLink()
    }

    private func openRing() throws(PortError) {
        let result = dsr_ring_setup(
            pollDescriptor, UInt32(Self.ringSlot), UInt32(options.ringSlots),
            UInt32(Frame.headroom))
        guard result == 0 else {
            shut()
            throw PortError(port: name, operation: "receive ring", errno: -result)
        }
        let size = Self.ringSlot * options.ringSlots
        let mapping = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, pollDescriptor, 0)
        guard let mapping, mapping != MAP_FAILED else {
            shut()
            throw PortError(port: name, operation: "map ring", errno: errno)
        }
        ring = mapping
        ringPosition = 0
        ringTaken = 0
    }

    private func shut() {
        if let ring { munmap(ring, Self.ringSlot * options.ringSlots) }
        ring = nil
        if pollDescriptor >= 0 { close(pollDescriptor) }
        state.pointee.descriptor = -1
        state.pointee.isUp = false
        mtu = 0
        state.pointee.queued = 0
    }

    /// False when the device that we had joined is gone.
    @discardableResult
    private func readLink() -> Bool {
        let state = link.newest
        guard state.interfaceIndex == interfaceIndex else { return false }
        mtu = state.mtu
        self.state.pointee.isUp = state.isUp
        return true
    }

    // MARK: Receive

    public func receive(
        into burst: UnsafeMutablePointer<Frame>, limit: Int, now: UInt64
    ) -> Int {
        guard pollDescriptor >= 0 else { return 0 }
        return ring == nil
            ? receiveBatch(into: burst, limit: min(limit, state.pointee.burstLimit))
            : receiveRing(into: burst, limit: limit)
    }

    private func receiveBatch(into burst: UnsafeMutablePointer<Frame>, limit: Int) -> Int {
        guard let buffers else { return 0 }
        let count = Int(dsr_batch_receive(&state.pointee.received, pollDescriptor, UInt32(limit)))
        guard count > 0 else { return 0 }
        var frames = 0
        var octets = 0
        for index in 0..<count {
            let length = Int(dsr_batch_length(&state.pointee.received, UInt32(index)))
            octets &+= length
            guard length > VirtioHeader.size else {
                deviceCounters.receiveTruncated &+= 1
                continue
            }
            var frame = Frame(start: buffers.start(index), length: length - VirtioHeader.size)
            let tag = dsr_batch_vlan(&state.pointee.received, UInt32(index))
            if tag != 0, frame.length >= 14 { frame.restoreVLAN(tag) }
            burst[frames] = frame
            frames += 1
        }
        if octets > Self.burstOctets {
            state.pointee.burstLimit = max(4, limit / 2)
        } else if count == limit, octets < Self.burstOctets / 2 {
            state.pointee.burstLimit = min(Self.burst, limit * 2)
        }
        return frames
    }

    private func slot(_ index: Int) -> UnsafeMutableRawPointer? {
        ring.map { $0 + index * Self.ringSlot }
    }

    /// Frames are handed out in place; their slots go back to the kernel at the next call.
    private func receiveRing(into burst: UnsafeMutablePointer<Frame>, limit: Int) -> Int {
        for _ in 0..<ringTaken {
            if let slot = slot(ringPosition) { dsr_ring_release(slot) }
            ringPosition = (ringPosition + 1) % options.ringSlots
        }
        ringTaken = 0
        var frames = 0
        while ringTaken < min(limit, options.ringSlots / 2) {
            guard let slot = slot((ringPosition + ringTaken) % options.ringSlots),
                dsr_ring_ready(slot) != 0
            else { break }
            ringTaken += 1
            let length = Int(dsr_ring_length(slot))
            guard length > 0 else {
                deviceCounters.receiveTruncated &+= 1
                continue
            }
            var frame = Frame(start: dsr_ring_frame(slot), length: length)
            let tag = dsr_ring_vlan(slot)
            if tag != 0, frame.length >= 14 { frame.restoreVLAN(tag) }
            burst[frames] = frame
            frames += 1
        }
        return frames
    }

    // MARK: Transmit

    public func transmit(_ frame: Frame, now: UInt64) {
        guard pollDescriptor >= 0, isUp else {
            deviceCounters.transmitDrops &+= 1
            return
        }
        if state.pointee.queued == Self.queueCapacity { flush(now: now) }
        queue[state.pointee.queued] = frame
        state.pointee.queued &+= 1
    }

    public func flush(now: UInt64) {
        var queued = state.pointee.queued
        guard queued > 0 else { return }
        // Whatever becomes of them, they are not queued any more.
        state.pointee.queued = 0
        if queued > 1, let merging { queued = merging.merge(queue, count: queued) }
        for index in 0..<queued {
            dsr_batch_set(
                &state.pointee.sending, UInt32(index), queue[index].start - VirtioHeader.size,
                queue[index].length + VirtioHeader.size)
        }
        var first = 0
        var waits = 0
        while first < queued {
            let sent = Int(
                dsr_batch_send(
                    &state.pointee.sending, pollDescriptor, UInt32(first), UInt32(queued - first)))
            if sent > 0 {
                first += sent
                continue
            }
            switch errno {
            case EINTR: continue
            case EAGAIN, ENOBUFS:
                // The device's queue is full: a short wait, at most 1 ms in all, then a drop.
                guard waits < 10 else {
                    deviceCounters.transmitDrops &+= UInt64(queued - first)
                    return
                }
                waits += 1
                dsr_wait_writable(pollDescriptor)
            case ENETDOWN, ENXIO, ENODEV, EBADF:
                state.pointee.isUp = false
                deviceCounters.transmitDrops &+= UInt64(queued - first)
                return
            default:
                // This frame alone is not taken (too long, bad header): the others may be.
                deviceCounters.transmitDrops &+= 1
                first += 1
            }
        }
    }

    // MARK: Link

    public func maintain(now: UInt64) -> Bool {
        // Sending may have found it down meanwhile.
        let wasUp = toldUp
        defer { toldUp = isUp }
        let descriptor = pollDescriptor
        if options.watch == nil { link.look() }
        if pollDescriptor >= 0 {
            deviceCounters.receiveDrops &+= UInt64(dsr_packet_drops(pollDescriptor))
            if !readLink() {
                // Joined again at the next call, not now: the new socket would get the same number, and
                // whoever waits for input by number would not notice that it is another one.
                shut()
                return true
            }
        }
        if pollDescriptor < 0 {
            do {
                try open()
                deviceCounters.rejoins &+= 1
            } catch {
                // Still gone: tried again at the next call.
            }
        }
        return wasUp != isUp || descriptor != pollDescriptor
    }
}
