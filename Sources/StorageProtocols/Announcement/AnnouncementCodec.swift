/// Reads big-endian numbers and texts; nothing behind the end.
private struct OctetReader {
    let bytes: ArraySlice<UInt8>
    private(set) var position: Int

    init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }

    var isAtEnd: Bool { position == bytes.endIndex }

    mutating func octets(_ count: Int) throws(AnnouncementRefusal) -> ArraySlice<UInt8> {
        guard count <= bytes.endIndex - position else { throw .malformed }
        defer { position += count }
        return bytes[position..<position + count]
    }

    mutating func number<Value: FixedWidthInteger & UnsignedInteger>(
        _ type: Value.Type = Value.self
    ) throws(AnnouncementRefusal) -> Value {
        try octets(Value.bitWidth / 8).reduce(0) { $0 << 8 | Value($1) }
    }

    /// Behind its length in one octet.
    mutating func text() throws(AnnouncementRefusal) -> String {
        let count = try number(UInt8.self)
        guard let text = String(validating: try octets(Int(count)), as: UTF8.self) else {
            throw .malformed
        }
        return text
    }
}

extension [UInt8] {
    fileprivate mutating func append(bigEndian value: some FixedWidthInteger & UnsignedInteger) {
        for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }

    /// `text` has at most 255 octets.
    fileprivate mutating func append(counted text: String) {
        append(UInt8(truncatingIfNeeded: text.utf8.count))
        append(contentsOf: text.utf8)
    }
}

/// What stands before the elements: enough to know whose key to try.
struct AnnouncementEnvelope {
    var announcement: Announcement
    var keyIdentifier: UInt32
    /// All that the code covers, and the code.
    var covered: ArraySlice<UInt8>
    var code: ArraySlice<UInt8>
    private var elements: ArraySlice<UInt8>

    init(_ datagram: [UInt8]) throws(AnnouncementRefusal) {
        let least = Announcement.fixedLength + 1 + Announcement.codeLength
        guard (least...Announcement.datagramMaximum).contains(datagram.count) else {
            throw .malformed
        }
        covered = datagram[..<(datagram.count - Announcement.codeLength)]
        code = datagram[(datagram.count - Announcement.codeLength)...]
        var reader = OctetReader(covered)
        guard try reader.octets(4).elementsEqual(Announcement.magic),
            try reader.number(UInt8.self) == Announcement.version
        else { throw .malformed }
        let flags = try reader.number(UInt8.self)
        guard try reader.number(UInt16.self) == datagram.count else { throw .malformed }
        keyIdentifier = try reader.number()
        announcement = Announcement(
            server: "", bootID: try reader.number(), bootTime: try reader.number(),
            sequence: try reader.number(), timestamp: try reader.number())
        announcement.isLeaving = flags & 1 != 0
        announcement.part = try reader.number()
        announcement.partCount = try reader.number()
        announcement.server = try reader.text()
        // The first part's sequence is one at least.
        guard announcement.sequence > UInt64(announcement.part),
            announcement.part < announcement.partCount,
            announcement.partCount <= Announcement.partMaximum,
            (1...Announcement.nameMaximum).contains(announcement.server.utf8.count)
        else { throw .malformed }
        elements = covered[reader.position...]
    }

    /// To be called only when the code is right.
    func whole() throws(AnnouncementRefusal) -> Announcement {
        var result = announcement
        var reader = OctetReader(elements)
        while !reader.isAtEnd {
            let type = try reader.number(UInt8.self)
            let length = try reader.number(UInt16.self)
            let value = try reader.octets(Int(length))
            switch type {
            case 1:
                guard result.load == nil else { throw .malformed }
                result.load = try Self.load(value)
            case 2: result.resources.append(try Self.resource(value))
            default: break
            }
        }
        guard !result.isLeaving || result.resources.isEmpty else { throw .malformed }
        return result
    }

    private static func load(_ value: ArraySlice<UInt8>) throws(AnnouncementRefusal) -> AgentLoad {
        var reader = OctetReader(value)
        let load = AgentLoad(
            cpuPermille: try reader.number(), memoryPermille: try reader.number(),
            runQueueHundredths: try reader.number(), cores: try reader.number(),
            networkOctetsPerSecond: try reader.number())
        guard reader.isAtEnd, load.cpuPermille <= 1_000, load.memoryPermille <= 1_000 else {
            throw .malformed
        }
        return load
    }

    private static func resource(
        _ value: ArraySlice<UInt8>
    ) throws(AnnouncementRefusal) -> AnnouncedResource {
        var reader = OctetReader(value)
        let state: AnnouncedResource.State
        switch try reader.number(UInt8.self) {
        case 1: state = .serving
        case 2: state = .standby
        default: throw .malformed
        }
        let lunCount = try reader.number(UInt16.self)
        let name = try reader.text()
        let target = try reader.text()
        guard reader.isAtEnd, AnnouncedResource.isName(name), AnnouncedResource.isTarget(target)
        else { throw .malformed }
        return AnnouncedResource(name: name, target: target, state: state, lunCount: lunCount)
    }
}

extension Announcement {
    /// The datagram, with its code.
    func encoded(_ key: AnnouncementKey) -> [UInt8] {
        var result = Self.magic + [Self.version, isLeaving ? 1 : 0]
        let elements = (load.map(Self.element) ?? []) + resources.flatMap(Self.element)
        let length =
            Self.fixedLength + server.utf8.count + elements.count + Self.codeLength
        result.append(bigEndian: UInt16(truncatingIfNeeded: length))
        result.append(bigEndian: key.identifier)
        for value in [bootID, bootTime, sequence, timestamp] { result.append(bigEndian: value) }
        result += [part, partCount]
        result.append(counted: server)
        result += elements
        return result + key.code(result[...])
    }

    private static func element(_ load: AgentLoad) -> [UInt8] {
        var result: [UInt8] = [1, 0, 18]
        result.append(bigEndian: load.cpuPermille)
        result.append(bigEndian: load.memoryPermille)
        result.append(bigEndian: load.runQueueHundredths)
        result.append(bigEndian: load.cores)
        result.append(bigEndian: load.networkOctetsPerSecond)
        return result
    }

    fileprivate static func element(_ resource: AnnouncedResource) -> [UInt8] {
        var value: [UInt8] = [resource.state == .serving ? 1 : 2]
        value.append(bigEndian: resource.lunCount)
        value.append(counted: resource.name)
        value.append(counted: resource.target)
        var result: [UInt8] = [2]
        result.append(bigEndian: UInt16(truncatingIfNeeded: value.count))
        return result + value
    }
}

/// The sending side: numbers announcements and cuts them into datagrams.
public struct AnnouncementSender: Sendable {
    /// What cannot be announced.
    public struct Invalid: Error, Hashable, Sendable, CustomStringConvertible {
        public var description: String
    }

    private let server: String
    private let key: AnnouncementKey
    private let bootID: UInt64
    private let bootTime: UInt64
    private var sequence: UInt64 = 0

    /// `bootID` is random, `bootTime` ms since 1970.
    public init(
        server: String, key: AnnouncementKey, bootID: UInt64, bootTime: UInt64
    ) throws(Invalid) {
        guard (1...Announcement.nameMaximum).contains(server.utf8.count) else {
            throw Invalid(
                description: "a server's name has 1 to \(Announcement.nameMaximum) octets, not "
                    + "\(server.utf8.count)")
        }
        self.server = server
        self.key = key
        self.bootID = bootID
        self.bootTime = bootTime
    }

    /// Says why these cannot be announced together.
    public static func check(_ resources: [AnnouncedResource]) throws(Invalid) {
        guard resources.count <= Announcement.resourceMaximum else {
            throw Invalid(
                description: "\(resources.count) resources; at most "
                    + "\(Announcement.resourceMaximum)")
        }
        var names: Set<String> = []
        var targets: Set<String> = []
        for resource in resources {
            guard AnnouncedResource.isName(resource.name) else {
                throw Invalid(
                    description: "\"\(resource.name)\" is no name of a resource: 1 to 63 letters, "
                        + "digits, '.', '_', ':', '-'")
            }
            guard AnnouncedResource.isTarget(resource.target) else {
                throw Invalid(
                    description:
                        "\"\(resource.target)\" is no iSCSI name, as iqn.2026-01.org.example:disk"
                )
            }
            guard names.insert(resource.name).inserted else {
                throw Invalid(description: "the name \(resource.name) is given twice")
            }
            guard targets.insert(resource.target.lowercased()).inserted else {
                throw Invalid(description: "the target \(resource.target) is given twice")
            }
        }
    }

    /// Datagrams that say all of it. `timestamp`: ms since 1970.
    public mutating func announce(
        _ resources: [AnnouncedResource], load: AgentLoad?, timestamp: UInt64
    ) throws(Invalid) -> [[UInt8]] {
        try Self.check(resources)
        let room =
            Announcement.datagramMaximum - Announcement.fixedLength - server.utf8.count
            - Announcement.codeLength
        var parts: [[AnnouncedResource]] = [[]]
        // The first part has the load.
        var used = load == nil ? 0 : 21
        for resource in resources {
            let length = Announcement.element(resource).count
            if used + length > room {
                parts.append([])
                used = 0
            }
            parts[parts.count - 1].append(resource)
            used += length
        }
        guard parts.count <= Announcement.partMaximum else {
            throw Invalid(
                description: "\(resources.count) resources need \(parts.count) datagrams; at most "
                    + "\(Announcement.partMaximum)")
        }
        return parts.enumerated().map { index, part in
            var announcement = next(timestamp)
            announcement.part = UInt8(index)
            announcement.partCount = UInt8(parts.count)
            announcement.load = index == 0 ? load : nil
            announcement.resources = part
            return announcement.encoded(key)
        }
    }

    /// The last datagram of an agent that ends.
    public mutating func leave(timestamp: UInt64) -> [UInt8] {
        var announcement = next(timestamp)
        announcement.isLeaving = true
        return announcement.encoded(key)
    }

    private mutating func next(_ timestamp: UInt64) -> Announcement {
        sequence += 1
        return Announcement(
            server: server, bootID: bootID, bootTime: bootTime, sequence: sequence,
            timestamp: timestamp)
    }
}
