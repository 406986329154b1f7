import DataPlane

/// File handles as a function of their number: what is looked up is computed, so that no memory but
/// the table's grows with their number.
private enum NumberedHandle {
    static let lengthMaximum = 40

    /// One to one, each bit of the result of all bits of the value (the last steps of SplitMix64).
    @inline(__always)
    private static func spread(_ value: UInt64) -> UInt64 {
        var value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    /// Writes 40 octets that seem random; returns how many of them are the handle: 28, 32, 36 or
    /// 40. No two numbers have the same first eight.
    @inline(__always)
    static func write(_ number: UInt32, to place: UnsafeMutableRawPointer) -> Int {
        var value = UInt64(number) &* 5
        for offset in stride(from: 0, to: lengthMaximum, by: 8) {
            value &+= 1
            place.storeBytes(of: spread(value), toByteOffset: offset, as: UInt64.self)
        }
        return 28 + Int(spread(value) & 3) * 4
    }

    static func octets(_ number: UInt32) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: lengthMaximum) { buffer, count in
            guard let start = buffer.baseAddress else { return }
            count = write(number, to: start)
        }
    }
}

/// The same in every case, so that only the number of handles differs.
private let handleCapacity = 1 << 20
private let resource: DatagramResourceID = 1

// MARK: The table alone

private final class HandleLookUps {
    private let table: HandleTable
    private var order: FlowOrder
    private let handle = UnsafeMutableRawPointer.allocate(
        byteCount: NumberedHandle.lengthMaximum, alignment: 8)

    init(_ count: Int) {
        var table = HandleTable(capacity: handleCapacity)
        for number in 0..<UInt32(count) {
            let length = NumberedHandle.write(number, to: handle)
            table.install(handle, length: length, resource: resource)
        }
        self.table = table
        order = FlowOrder(count: count)
    }

    deinit { handle.deallocate() }

    /// Handles that were found.
    func run(_ bursts: Int) -> Int {
        var found = 0
        var order = self.order
        defer { self.order = order }
        for _ in 0..<bursts * 64 {
            let length = NumberedHandle.write(order.next(), to: handle)
            let cell = table.find(handle, length: length)
            if cell >= 0, table.resource(cell) == resource { found += 1 }
        }
        return found
    }
}

/// Look-ups of `count` handles in random order, all of them in the table.
func handleLookUps(_ count: Int) -> Case {
    let lookUps = HandleLookUps(count)
    return Case { lookUps.run($0) }
}

// MARK: The whole path

/// A GETATTR call of version 3 with AUTH_SYS and the longest handle (RFC 5531 section 9, RFC 1813
/// section 3.3.1).
private enum CallFrame {
    /// Ethernet, IPv4 and UDP.
    static let message = 14 + 20 + 8
    /// Octets of the credential.
    private static let credentialLength: UInt32 = 48
    /// Eleven words are around the credential, the last of them is the handle's length.
    static let handle = message + 11 * 4 + Int(credentialLength)

    static let template: [UInt8] = {
        // Stamp, machine name "dsrbench", uid, gid, gids.
        let credential: [UInt32] = [
            1, 8, 0x6473_7262, 0x656e_6368, 1_000, 1_000, 5, 1_000, 4, 24, 27, 30,
        ]
        let words: [UInt32] = [0, 0, 2, 100_003, 3, 1, 1, credentialLength] + credential
        let verifierAndLength: [UInt32] = [0, 0, UInt32(NumberedHandle.lengthMaximum)]
        var message: [UInt8] = []
        for word in words + verifierAndLength {
            withUnsafeBytes(of: word.bigEndian) { message += $0 }
        }
        message += [UInt8](repeating: 0, count: NumberedHandle.lengthMaximum)
        return udpFrame(message, destinationPort: 2_049)
    }()

    /// Gives each call the next XID, and the handle of a number with the lengths that depend on it.
    static func patch() -> (UnsafeMutableRawPointer, UInt32) -> Void {
        var xid: UInt32 = 0
        return { frame, number in
            xid &+= 1
            frame.storeBytes(of: xid.bigEndian, toByteOffset: message, as: UInt32.self)
            let length = NumberedHandle.write(number, to: frame + handle)
            let shorter = UInt16(NumberedHandle.lengthMaximum - length)
            frame.storeBytes(
                of: UInt32(length).bigEndian, toByteOffset: handle - 4, as: UInt32.self)
            // The total length of IPv4, and the length of UDP.
            let total = word(frame, 16)
            set(frame, 16, total - shorter)
            set(frame, 38, word(frame, 38) - shorter)
            // RFC 1624 section 3: HC' = ~(~HC + ~m + m').
            var sum = UInt32(~word(frame, 24)) + UInt32(~total) + UInt32(total - shorter)
            while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
            set(frame, 24, ~UInt16(sum))
        }
    }

    @inline(__always)
    private static func word(_ frame: UnsafeMutableRawPointer, _ offset: Int) -> UInt16 {
        frame.loadUnaligned(fromByteOffset: offset, as: UInt16.self).bigEndian
    }

    @inline(__always)
    private static func set(_ frame: UnsafeMutableRawPointer, _ offset: Int, _ value: UInt16) {
        frame.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }
}

/// Calls of one client with `count` handles in random order, through the fast path to one server.
func datagramCalls(_ count: Int) -> Case {
    var sizes = configuration(flows: 64)
    sizes.datagramHandles = handleCapacity
    let serverMAC = MACAddress(rawValue: 0x0200_0000_0201)
    // To everybody, from the server, of a type that is nobody's (IEEE 802 local experimental).
    let greeting: [UInt8] =
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 2, 1, 0x88, 0xb5]
        + [UInt8](repeating: 0, count: 46)
    let input = BurstPort(
        name: "in", template: CallFrame.template, flows: count, patch: CallFrame.patch())
    let bench = Bench(input: input, greeting: greeting, configuration: sizes)
    let service = DatagramService(
        clientDomain: 0, virtualAddresses: DatagramAddresses(ipv4: virtual),
        clientMAC: MACAddress(rawValue: 0x0200_0000_0101), storageDomain: 1,
        storageAddresses: DatagramAddresses(ipv4: IPAddress(v4: 0xc0a8_0101)),
        storageMAC: MACAddress(rawValue: 0x0200_0000_0202))
    bench.apply([
        .datagram(.setService(0, service)),
        .datagram(
            .setResource(resource, server: DatagramServer(address: server, mac: serverMAC))),
        .datagram(
            .bind(
                0, client: DatagramEndpoint(address: client, port: 40_000), localPort: 40_000,
                resources: [resource])),
    ])
    var batch: [Command] = []
    for number in 0..<UInt32(count) {
        batch.append(
            .datagram(.installHandle(NumberedHandle.octets(number), resource: resource)))
        if batch.count == 10_000 || number + 1 == UInt32(count) {
            bench.apply(batch)
            batch.removeAll(keepingCapacity: true)
        }
    }
    return Case { bench.run($0) }
}
