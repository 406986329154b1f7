// What an agent beside a storage server says of it, and how that looks on the wire.
//
// One announcement is one UDP datagram, or several when its resources do not fit one of 1400 octets. Numbers
// are big-endian. Version 1:
//
//      0   4  "DSRA"
//      4   1  version, 1
//      5   1  flags; 1: the agent ends, its resources are not listed. Others are 0 and ignored
//      6   2  octets of the datagram, the code at its end included
//      8   4  key identifier
//     12   8  boot identifier: random, drawn when the agent starts
//     20   8  boot time: when that was, ms since 1970
//     28   8  sequence, from 1; one more with each datagram
//     36   8  timestamp: when it was sent, ms since 1970
//     44   1  part, from 0
//     45   1  parts of this announcement, 1 to 64; they have consecutive sequences
//     46   1  octets of the server's name, 1 to 63
//     47   n  the server's name, UTF-8
//      .   .  elements: type 1 octet, length 2 octets, value. Unknown types are passed over
//    end  32  HMAC-SHA256 over all before it
//
//     Element 1, load (18 octets, at most once): CPU permille 2, memory permille 2, run queue in hundredths 4,
//     cores 2, network octets per second 8.
//     Element 2, resource: state 1 (1 serving, 2 standby), logical units 2, length 1, name, length 1, target.
//
// An announcement names all resources of the server; what it does not name is not there.

/// How busy a server is.
public struct AgentLoad: Hashable, Sendable, Codable {
    /// Share of the time in which the processors were busy, 0 to 1000.
    public var cpuPermille: UInt16
    /// Share of the memory that cannot be had, 0 to 1000.
    public var memoryPermille: UInt16
    /// Tasks that run or wait for a processor or a disk, mean of a minute, in hundredths.
    public var runQueueHundredths: UInt32
    public var cores: UInt16
    /// Sent and received, loopback not counted.
    public var networkOctetsPerSecond: UInt64

    public init(
        cpuPermille: UInt16, memoryPermille: UInt16, runQueueHundredths: UInt32 = 0,
        cores: UInt16 = 1, networkOctetsPerSecond: UInt64 = 0
    ) {
        self.cpuPermille = cpuPermille
        self.memoryPermille = memoryPermille
        self.runQueueHundredths = runQueueHundredths
        self.cores = cores
        self.networkOctetsPerSecond = networkOctetsPerSecond
    }
}

/// A resource that a server says it has.
public struct AnnouncedResource: Hashable, Sendable, Codable {
    public enum State: String, CaseIterable, Hashable, Sendable, Codable {
        /// Takes sessions now.
        case serving
        /// Is there, but does not take sessions.
        case standby
    }

    /// Letters, digits, `.`, `_`, `:` and `-`, at most 63.
    public var name: String
    /// iSCSI name, visible ASCII, at most 223 octets (RFC 7143 section 4.2.7.1).
    public var target: String
    public var state: State
    /// Logical units with a medium.
    public var lunCount: UInt16

    public init(name: String, target: String, state: State = .serving, lunCount: UInt16 = 1) {
        self.name = name
        self.target = target
        self.state = state
        self.lunCount = lunCount
    }

    /// Names go into listings, metrics and addresses of the API: nothing there needs quoting.
    public static func isName(_ text: String) -> Bool {
        (1...Announcement.nameMaximum).contains(text.utf8.count)
            && text.utf8.allSatisfy {
                switch $0 {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"),
                    UInt8(ascii: ":"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }

    public static func isTarget(_ text: String) -> Bool {
        (5...Announcement.targetMaximum).contains(text.utf8.count)
            && ["iqn.", "eui.", "naa."].contains(text.prefix(4).lowercased())
            && text.utf8.allSatisfy { (0x21...0x7e).contains($0) }
    }
}

/// One datagram's worth of an announcement.
public struct Announcement: Hashable, Sendable {
    public var server: String
    /// Of the agent, not of the machine.
    public var bootID: UInt64
    /// ms since 1970.
    public var bootTime: UInt64
    /// From 1.
    public var sequence: UInt64
    /// ms since 1970.
    public var timestamp: UInt64
    public var part: UInt8 = 0
    public var partCount: UInt8 = 1
    public var isLeaving = false
    public var load: AgentLoad?
    public var resources: [AnnouncedResource] = []

    public init(
        server: String, bootID: UInt64, bootTime: UInt64, sequence: UInt64, timestamp: UInt64
    ) {
        self.server = server
        self.bootID = bootID
        self.bootTime = bootTime
        self.sequence = sequence
        self.timestamp = timestamp
    }

    /// Octets of a datagram.
    public static let datagramMaximum = 1_400
    public static let partMaximum = 64
    public static let resourceMaximum = 1_024
    /// Octets of names of servers and resources.
    public static let nameMaximum = 63
    public static let targetMaximum = 223
    public static let defaultPort: UInt16 = 7_411

    static let magic: [UInt8] = Array("DSRA".utf8)
    static let version: UInt8 = 1
    static let fixedLength = 47
    static let codeLength = 32

    /// Sequence of the announcement's first part: what tells it from others of the same boot.
    public var firstSequence: UInt64 { sequence - UInt64(part) }
}

/// Why a datagram was refused.
public enum AnnouncementRefusal: String, Error, CaseIterable, Hashable, Sendable {
    case malformed
    case unknownServer
    /// Not from an address of the server that it names.
    case wrongAddress
    case unknownKey
    case badMAC
    /// This very datagram was taken before.
    case replayed
    /// So far behind the newest that it cannot be told whether it was taken before.
    case tooOld
    /// Of an agent that has been replaced, or sent too long ago.
    case stale
}
