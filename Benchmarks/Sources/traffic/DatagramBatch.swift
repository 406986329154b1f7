import CDatagrams
import Glibc

/// Datagrams that one system call receives or sends, each with a buffer of its own.
final class DatagramBatch {
    static let limit = Int(TRAFFIC_BATCH)

    private(set) var count = 0
    /// Octets of each buffer.
    private let room: Int
    private let memory: UnsafeMutableRawPointer
    private let entries: UnsafeMutablePointer<traffic_datagram>

    init(room: Int) {
        self.room = room
        memory = .allocate(byteCount: Self.limit * room, alignment: 64)
        memset(memory, 0, Self.limit * room)
        entries = .allocate(capacity: Self.limit)
        for index in 0..<Self.limit {
            (entries + index).initialize(
                to: traffic_datagram(
                    octets: memory + index * room, length: 0, peer: sockaddr_in()))
        }
    }

    deinit {
        memory.deallocate()
        entries.deallocate()
    }

    func octets(_ index: Int) -> UnsafeMutableRawPointer { memory + index * room }
    func length(_ index: Int) -> Int { entries[index].length }
    func peer(_ index: Int) -> sockaddr_in { entries[index].peer }

    /// Takes what there is.
    /// - Parameter waits: until there is something.
    func receive(from descriptor: Int32, waits: Bool) {
        let received = traffic_receive(
            descriptor, entries, UInt32(Self.limit), room, waits ? 1 : 0)
        if received < 0, errno != EAGAIN, errno != EINTR { fail("recvmmsg") }
        count = max(0, Int(received))
    }

    var isFull: Bool { count == Self.limit }

    /// Buffer of the next datagram; it must not be full.
    var next: UnsafeMutableRawPointer { octets(count) }

    /// What was written to `next` is to be sent.
    /// - Parameter peer: nil: the socket is connected.
    func append(_ length: Int, to peer: sockaddr_in? = nil) {
        entries[count].length = length
        if let peer { entries[count].peer = peer }
        count += 1
    }

    /// Sends what was appended. It is empty afterwards.
    func send(on descriptor: Int32, hasPeers: Bool) {
        var sent = 0
        while sent < count {
            let result = traffic_send(
                descriptor, entries + sent, UInt32(count - sent), hasPeers ? 1 : 0)
            if result > 0 {
                sent += Int(result)
            } else if errno != EINTR {
                fail("sendmmsg")
            }
        }
        count = 0
    }
}
