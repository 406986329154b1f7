/// Packets and octets of one port, as the pipeline counts them.
public struct PortCounters: Equatable, Sendable {
    public var receivedPackets: UInt64 = 0
    public var receivedBytes: UInt64 = 0
    public var sentPackets: UInt64 = 0
    public var sentBytes: UInt64 = 0
    public init() {}
}

/// What people are told of a port.
public struct PortStatus: Sendable {
    public var number: PortNumber
    public var name: String
    public var domain: DomainID
    public var isCPU: Bool
    public var isUp: Bool
    /// Octets of IP that the port can send; 0: unknown.
    public var mtu: Int
    public var counters: PortCounters
    public var device: PortDeviceCounters
}

/// The ports of a switch, what is queued on them in this burst, and what is counted.
struct PortSet: ~Copyable, FrameOutput {
    struct Slot {
        var port: any Port
        var number: PortNumber
        var domain: DomainID
        var isCPU: Bool
        var mtu: Int
        var counters = PortCounters()
    }

    static let domainMaximum = 16
    let capacity: Int
    /// By port number; 0 is not a port.
    let slots: UnsafeMutablePointer<Slot?>
    /// Numbers in use, in order.
    private(set) var numbers: [PortNumber] = []
    /// CPU port of each domain; 0: none.
    let cpuPorts: UnsafeMutablePointer<PortNumber>
    let drops: UnsafeMutablePointer<UInt64>
    let macs: UnsafeMutablePointer<MACTable>
    let events: EventRing
    /// Set when an event was written since it was cleared.
    var hasNewEvents = false

    private let arena: FrameBuffers
    private var arenaUsed = 0
    /// Bit n: port n has frames queued.
    private var dirty: UInt64 = 0

    init(capacity: Int, macCapacity: Int, eventCapacity: Int) {
        self.capacity = min(capacity, 63)
        slots = .allocate(capacity: self.capacity + 1)
        slots.initialize(repeating: nil, count: self.capacity + 1)
        cpuPorts = .allocate(capacity: Self.domainMaximum)
        cpuPorts.initialize(repeating: 0, count: Self.domainMaximum)
        drops = .allocate(capacity: DropReason.allCases.count)
        drops.initialize(repeating: 0, count: DropReason.allCases.count)
        macs = .allocate(capacity: Self.domainMaximum)
        for domain in 0..<Self.domainMaximum {
            (macs + domain).initialize(to: MACTable(capacity: macCapacity))
        }
        events = EventRing(capacity: eventCapacity)
        arena = FrameBuffers(count: 192)
    }

    deinit {
        slots.deinitialize(count: capacity + 1)
        slots.deallocate()
        cpuPorts.deallocate()
        drops.deallocate()
        macs.deinitialize(count: Self.domainMaximum)
        macs.deallocate()
    }

    // MARK: Ports

    func has(_ number: PortNumber) -> Bool {
        number > 0 && Int(number) <= capacity && slots[Int(number)] != nil
    }

    /// False when the number is taken or out of range.
    mutating func add(
        _ port: any Port, number: PortNumber, domain: DomainID, isCPU: Bool, mtu: Int
    ) -> Bool {
        guard number > 0, Int(number) <= capacity, slots[Int(number)] == nil,
            Int(domain) < Self.domainMaximum
        else { return false }
        slots[Int(number)] = Slot(
            port: port, number: number, domain: domain, isCPU: isCPU, mtu: mtu)
        numbers.append(number)
        numbers.sort()
        if isCPU { cpuPorts[Int(domain)] = number }
        return true
    }

    mutating func remove(_ number: PortNumber) -> Bool {
        guard has(number), let slot = slots[Int(number)] else { return false }
        if slot.isCPU { cpuPorts[Int(slot.domain)] = 0 }
        macs[Int(slot.domain)].expire(age: .max, now: 0, port: number)
        for (reason, dropped) in slot.port.deviceCounters.drops {
            drops[Int(reason.rawValue)] &+= dropped
        }
        slots[Int(number)] = nil
        numbers.removeAll { $0 == number }
        dirty &= ~(1 << UInt64(number))
        return true
    }

    // MARK: Output

    @inline(__always)
    mutating func transmit(_ frame: Frame, to number: PortNumber, now: UInt64) {
        guard number > 0, Int(number) <= capacity, slots[Int(number)] != nil else {
            return count(.noSuchPort)
        }
        guard slots[Int(number)]!.port.isUp else { return count(.portDown) }
        slots[Int(number)]!.counters.sentPackets &+= 1
        slots[Int(number)]!.counters.sentBytes &+= UInt64(truncatingIfNeeded: frame.length)
        slots[Int(number)]!.port.transmit(frame, now: now)
        dirty |= 1 << UInt64(number)
    }

    @inline(__always)
    mutating func transmitToCPU(_ frame: Frame, domain: DomainID, now: UInt64) {
        let number = cpuPorts[Int(domain & 15)]
        guard number != 0 else { return count(.noSuchPort) }
        transmit(frame, to: number, now: now)
    }

    mutating func scratch(now: UInt64) -> Frame {
        if arenaUsed == arena.count { flush(now: now) }
        let frame = Frame(start: arena.start(arenaUsed), length: 0)
        arenaUsed += 1
        frame.offload = VirtioHeader()
        return frame
    }

    /// A copy in the arena, with its virtio header.
    mutating func copy(_ frame: Frame, now: UInt64) -> Frame {
        var result = scratch(now: now)
        (result.start - VirtioHeader.size).copyMemory(
            from: frame.start - VirtioHeader.size, byteCount: frame.length + VirtioHeader.size)
        result.length = frame.length
        return result
    }

    mutating func flush(now: UInt64) {
        while dirty != 0 {
            let number = dirty.trailingZeroBitCount
            dirty &= dirty &- 1
            slots[number]?.port.flush(now: now)
        }
        arenaUsed = 0
    }

    @inline(__always)
    mutating func count(_ reason: DropReason) { drops[Int(reason.rawValue)] &+= 1 }

    @discardableResult
    mutating func emit(_ event: Event) -> Bool {
        hasNewEvents = true
        return events.push(event)
    }

    @inline(__always)
    func port(of mac: MACAddress, vlan: UInt16, domain: DomainID) -> PortNumber {
        macs[Int(domain & 15)].port(of: mac, vlan: vlan)
    }

    @inline(__always)
    func mtu(of number: PortNumber) -> Int {
        guard number > 0, Int(number) <= capacity, slots[Int(number)] != nil else { return 0 }
        return slots[Int(number)]!.mtu
    }

    // MARK: Reading

    /// Everything dropped for a reason: what was counted here, and what the devices of ports count.
    func dropCount(_ reason: DropReason) -> UInt64 {
        numbers.reduce(drops[Int(reason.rawValue)]) { sum, number in
            let device = slots[Int(number)]?.port.deviceCounters.drops ?? []
            return device.reduce(sum) { $1.reason == reason ? $0 &+ $1.count : $0 }
        }
    }

    func status() -> [PortStatus] {
        numbers.compactMap { number in
            slots[Int(number)].map {
                PortStatus(
                    number: number, name: $0.port.name, domain: $0.domain, isCPU: $0.isCPU,
                    isUp: $0.port.isUp, mtu: $0.mtu, counters: $0.counters,
                    device: $0.port.deviceCounters)
            }
        }
    }
}
