import Foundation
import Testing

/// An initiator that does one step at a time, on a host of the lab: what real ones do by themselves at
/// once can be looked at in between.
final class RawInitiator {
    struct Answer {
        var header: [UInt8]
        var data: [UInt8]
        var opcode: UInt8 { header[0] & 0x3f }
        /// Login response: class and detail. SCSI response: response and status.
        var loginStatus: UInt16 { UInt16(header[36]) << 8 | UInt16(header[37]) }
        var scsiStatus: UInt8 { header[3] }
    }

    enum Failure: Error, Equatable {
        case noConnection(String)
        /// The other end closed or reset the connection.
        case closed
        case timeout
    }

    private let descriptor: Int32
    private var taskTag: UInt32 = 0
    private var commandNumber: UInt32 = 1
    private var expectedStatus: UInt32 = 0

    /// Connects from a host of the lab. A thread of its own enters the host's namespace: sockets stay
    /// where they were made.
    init(_ lab: Laboratory, host: String, address: String, port: UInt16 = 3260) throws {
        let path = "/run/netns/\(lab.namespace(host))"
        let outcome = Outcome()
        let thread = Thread {
            outcome.result = Result { try Self.connect(path, address, port) }
            outcome.done.signal()
        }
        thread.start()
        outcome.done.wait()
        descriptor = try #require(outcome.result).get()
    }

    deinit { close(descriptor) }

    private final class Outcome: @unchecked Sendable {
        var result: Result<Int32, any Error>?
        let done = DispatchSemaphore(value: 0)
    }

    private static func connect(_ path: String, _ address: String, _ port: UInt16) throws -> Int32 {
        typealias Enter = @convention(c) (Int32, Int32) -> Int32
        let symbol = try #require(dlsym(dlopen(nil, RTLD_NOW), "setns"))
        let namespace = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(namespace) }
        guard namespace >= 0, unsafeBitCast(symbol, to: Enter.self)(namespace, 0) == 0 else {
            throw Failure.noConnection("cannot enter \(path)")
        }
        var hints = addrinfo()
        hints.ai_flags = AI_NUMERICHOST
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(address, String(port), &hints, &found) == 0, let found else {
            throw Failure.noConnection("address \(address)")
        }
        defer { freeaddrinfo(found) }
        let descriptor = socket(found.pointee.ai_family, Int32(SOCK_STREAM.rawValue), 0)
        // Also bounds the time that connect takes.
        var limit = timeval(tv_sec: 3, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
        guard Glibc.connect(descriptor, found.pointee.ai_addr, found.pointee.ai_addrlen) == 0 else {
            let reason = String(cString: strerror(errno))
            close(descriptor)
            throw Failure.noConnection(reason)
        }
        return descriptor
    }

    func setTimeout(seconds: Int) {
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Login in one request, without authentication (RFC 7143 section 11.12).
    func login(target: String) throws -> Answer {
        let keys = [
            "InitiatorName=iqn.2026-01.lab.dsr:raw", "SessionType=Normal", "TargetName=\(target)",
            "HeaderDigest=None", "DataDigest=None",
        ]
        var header = [UInt8](repeating: 0, count: 48)
        header[0] = 0x43
        header[1] = 0x87  // T, CSG operational, NSG full feature
        header.replaceSubrange(8..<14, with: [0x80, 0, 0, 1, 0, UInt8.random(in: 1...255)])
        let answer = try exchange(header, data: Array(keys.map { $0 + "\0" }.joined().utf8))
        expectedStatus = answer.header.word(24) &+ 1
        return answer
    }

    /// TEST UNIT READY to LUN 1; tells whether the status is GOOD. After a login the first one gets a
    /// unit attention.
    func testUnitReady(unit: UInt8 = 1) throws -> Answer {
        var header = [UInt8](repeating: 0, count: 48)
        header[0] = 0x01
        header[1] = 0x81  // F, simple task
        header[9] = unit
        taskTag += 1
        header.setWord(16, taskTag)
        let answer = try exchange(header, data: [])
        commandNumber &+= 1
        expectedStatus = answer.header.word(24) &+ 1
        return answer
    }

    /// READ (10) of blocks of 512 octets that come in one Data-In PDU, with its status.
    func read(unit: UInt8, block: UInt32, count: Int) throws -> Answer {
        try send(command(unit: unit, 0x28, block, count, flags: 0xc1), data: [])
        return try finish()
    }

    /// The first `count` octets of a WRITE (10) with immediate data; `finishWrite` sends the rest.
    func beginWrite(unit: UInt8, block: UInt32, data: [UInt8], cutAfter count: Int) throws {
        let octets = framed(command(unit: unit, 0x2a, block, data.count / 512, flags: 0xa1), data)
        unsent = Array(octets[count...])
        try send(Array(octets[..<count]))
    }

    func finishWrite() throws -> Answer {
        try send(unsent)
        return try finish()
    }

    private var unsent: [UInt8] = []

    private func command(
        unit: UInt8, _ code: UInt8, _ block: UInt32, _ count: Int, flags: UInt8
    ) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 48)
        header[0] = 0x01
        header[1] = flags
        header[9] = unit
        taskTag += 1
        header.setWord(16, taskTag)
        header.setWord(20, UInt32(count * 512))
        header[32] = code
        header.setWord(34, block)
        header[40] = UInt8(count)
        return header
    }

    private func finish() throws -> Answer {
        let answer = try answer()
        commandNumber &+= 1
        expectedStatus = answer.header.word(24) &+ 1
        return answer
    }

    private func exchange(_ start: [UInt8], data: [UInt8]) throws -> Answer {
        try send(start, data: data)
        return try answer()
    }

    private func send(_ start: [UInt8], data: [UInt8]) throws { try send(framed(start, data)) }

    private func send(_ octets: [UInt8]) throws {
        guard Glibc.send(descriptor, octets, octets.count, Int32(MSG_NOSIGNAL)) == octets.count
        else { throw Failure.closed }
    }

    private func framed(_ start: [UInt8], _ data: [UInt8]) -> [UInt8] {
        var header = start
        header[5] = UInt8(data.count >> 16)
        header[6] = UInt8(data.count >> 8 & 0xff)
        header[7] = UInt8(data.count & 0xff)
        header.setWord(24, commandNumber)
        header.setWord(28, expectedStatus)
        return header + data + [UInt8](repeating: 0, count: (4 - data.count % 4) % 4)
    }

    private func answer() throws -> Answer {
        let answer = try receive(48)
        let length = Int(answer[5]) << 16 | Int(answer[6]) << 8 | Int(answer[7])
        return Answer(header: answer, data: Array(try receive((length + 3) & ~3).prefix(length)))
    }

    private func receive(_ count: Int) throws -> [UInt8] {
        var octets: [UInt8] = []
        while octets.count < count {
            var buffer = [UInt8](repeating: 0, count: count - octets.count)
            let got = recv(descriptor, &buffer, buffer.count, 0)
            guard got > 0 else {
                throw got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)
                    ? Failure.timeout : Failure.closed
            }
            octets += buffer[..<got]
        }
        return octets
    }

    /// Waits for the other end to close; false when it does not within the time-out.
    func waitForEnd() -> Bool {
        do {
            _ = try receive(1)
            return false
        } catch { return error as? Failure == .closed }
    }
}

extension [UInt8] {
    fileprivate func word(_ offset: Int) -> UInt32 {
        self[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    fileprivate mutating func setWord(_ offset: Int, _ value: UInt32) {
        for index in 0..<4 { self[offset + index] = UInt8(value >> (24 - 8 * index) & 0xff) }
    }
}
