/// A client of a service, and what stands for it towards servers. All zero: free.
struct DatagramBinding {
    var address = IPAddress(high: 0, low: 0)
    /// Next hop to the client; zero: not known yet.
    var mac = MACAddress.zero
    /// ns.
    var lastUsed: UInt64 = 0
    var calls: UInt64 = 0
    var replies: UInt64 = 0
    var resources = DatagramResourceSet()
    /// Another one for each binding that is made; 0: free.
    var serial: UInt32 = 0
    /// Next free slot + 1 while free.
    var next: UInt32 = 0
    var clientPort: UInt16 = 0
    var localPort: UInt16 = 0
    /// Switch port where the client was seen last; 0: ask the MAC table.
    var port: PortNumber = 0
    var service: DatagramServiceID = 0

    init() {}

    var client: DatagramEndpoint { DatagramEndpoint(address: address, port: clientPort) }
}

/// Clients and their local ports. Records in raw memory, found by the client's endpoint (open addressing, at most
/// half full) and by the local port (one word for each port, service and family). Memory is touched as it is needed.
struct BindingTable: ~Copyable {
    private struct Cell {
        var hash: UInt32
        /// Slot + 1; 0: empty.
        var slot: UInt32
    }

    let capacity: Int
    private(set) var count = 0
    /// Slots that were ever used: 0 ..< this.
    private(set) var slotsTaken = 0
    private var freeSlot: UInt32 = 0
    private var lastSerial: UInt32 = 0
    private let hasher: SeededHash
    private let mask: Int
    private let records: UnsafeMutablePointer<DatagramBinding>
    private let recordMemory: MappedMemory
    private let cells: UnsafeMutablePointer<Cell>
    private let cellMemory: MappedMemory
    /// Slot + 1 by service, family and local port.
    private let slots: UnsafeMutablePointer<UInt32>
    private let slotMemory: MappedMemory
    /// Bindings by service.
    private let counts: UnsafeMutablePointer<Int>

    init(capacity: Int, services: Int, seed: (UInt64, UInt64)) {
        let capacity = max(1, min(1 << 24, capacity))
        var cellCount = 64
        while cellCount < capacity * 2 { cellCount *= 2 }
        let slotCount = services * 2 << 16
        let recordMemory = MappedMemory(
            octets: capacity * MemoryLayout<DatagramBinding>.stride)
        let cellMemory = MappedMemory(octets: cellCount * MemoryLayout<Cell>.stride)
        let slotMemory = MappedMemory(octets: slotCount * MemoryLayout<UInt32>.stride)
        self.capacity = capacity
        hasher = SeededHash(seed: seed)
        mask = cellCount - 1
        records = recordMemory.start.bindMemory(to: DatagramBinding.self, capacity: capacity)
        cells = cellMemory.start.bindMemory(to: Cell.self, capacity: cellCount)
        slots = slotMemory.start.bindMemory(to: UInt32.self, capacity: slotCount)
        self.recordMemory = recordMemory
        self.cellMemory = cellMemory
        self.slotMemory = slotMemory
        counts = .allocate(capacity: services)
        counts.initialize(repeating: 0, count: services)
    }

    deinit { counts.deallocate() }

    // MARK: Look-up

    @inline(__always)
    func record(_ slot: Int) -> UnsafeMutablePointer<DatagramBinding> { records + slot }

    func count(of service: DatagramServiceID) -> Int { counts[Int(service)] }

    /// Slot of a client's binding, or -1.
    @inline(__always)
    func find(_ client: DatagramEndpoint, service: DatagramServiceID) -> Int {
        let index = position(client, service: service)
        return index < 0 ? -1 : Int(cells[index].slot) &- 1
    }

    /// Slot of the binding with a local port, or -1.
    @inline(__always)
    func find(localPort: UInt16, service: DatagramServiceID, isIPv4: Bool) -> Int {
        Int(slots[place(localPort, service: service, isIPv4: isIPv4)]) &- 1
    }

    @inline(__always)
    private func place(_ port: UInt16, service: DatagramServiceID, isIPv4: Bool) -> Int {
        (Int(service) &* 2 &+ (isIPv4 ? 0 : 1)) << 16 | Int(port)
    }

    @inline(__always)
    private func hash(_ client: DatagramEndpoint, service: DatagramServiceID) -> UInt32 {
        hasher.endpoint(client.address, port: client.port, kind: service)
    }

    @inline(__always)
    private func position(_ client: DatagramEndpoint, service: DatagramServiceID) -> Int {
        let hash = hash(client, service: service)
        var index = Int(hash) & mask
        while true {
            let cell = cells[index]
            if cell.slot == 0 { return -1 }
            if cell.hash == hash {
                let record = records + (Int(cell.slot) &- 1)
                if record.pointee.clientPort == client.port, record.pointee.service == service,
                    record.pointee.address == client.address
                {
                    return index
                }
            }
            index = (index &+ 1) & mask
        }
    }

    // MARK: Change: the batch was checked

    /// Makes a binding; there is room for it, and neither client nor local port have one.
    mutating func insert(
        _ client: DatagramEndpoint, service: DatagramServiceID, localPort: UInt16,
        resources: DatagramResourceSet, mac: MACAddress, now: UInt64
    ) {
        guard count < capacity else { return }
        let slot: Int
        if freeSlot != 0 {
            slot = Int(freeSlot) - 1
            freeSlot = records[slot].next
        } else {
            slot = slotsTaken
            slotsTaken += 1
        }
        lastSerial = lastSerial == .max ? 1 : lastSerial + 1
        var record = DatagramBinding()
        record.address = client.address
        record.clientPort = client.port
        record.localPort = localPort
        record.service = service
        record.resources = resources
        record.mac = mac
        record.serial = lastSerial
        record.lastUsed = now
        records[slot] = record
        let hash = hash(client, service: service)
        var index = Int(hash) & mask
        while cells[index].slot != 0 { index = (index + 1) & mask }
        cells[index] = Cell(hash: hash, slot: UInt32(slot) + 1)
        slots[place(localPort, service: service, isIPv4: client.address.isIPv4)] = UInt32(slot) + 1
        counts[Int(service)] += 1
        count += 1
    }

    mutating func remove(_ client: DatagramEndpoint, service: DatagramServiceID) {
        let index = position(client, service: service)
        guard index >= 0 else { return }
        let slot = Int(cells[index].slot) - 1
        let isIPv4 = client.address.isIPv4
        slots[place(records[slot].localPort, service: service, isIPv4: isIPv4)] = 0
        records[slot] = DatagramBinding()
        records[slot].next = freeSlot
        freeSlot = UInt32(slot) + 1
        counts[Int(service)] -= 1
        count -= 1
        removeCell(index)
    }

    /// As in `FlowTable.remove`.
    private mutating func removeCell(_ found: Int) {
        var hole = found
        var index = (hole + 1) & mask
        while cells[index].slot != 0 {
            let home = Int(cells[index].hash) & mask
            if (index &- home) & mask >= (index &- hole) & mask {
                cells[hole] = cells[index]
                hole = index
            }
            index = (index + 1) & mask
        }
        cells[hole].slot = 0
    }

    mutating func removeAll(of service: DatagramServiceID) {
        guard counts[Int(service)] > 0 else { return }
        for slot in 0..<slotsTaken
        where records[slot].serial != 0 && records[slot].service == service {
            remove(records[slot].client, service: service)
        }
    }
}
