import Glibc

/// A server of MOUNT 3 and NFS 3 with one directory, of which it tells attributes and nothing else.
/// Calls of NFS over UDP have a thread of their own.
func serveNFS(port: UInt16, mountPort: UInt16) -> Never {
    let descriptor = makeDatagramListener(port)
    let setup = NFSSetupServer(port: port, mountPort: mountPort)
    var thread = pthread_t()
    let result = pthread_create(
        &thread, nil,
        { argument in
            guard let argument else { return nil }
            Unmanaged<NFSSetupServer>.fromOpaque(argument).takeRetainedValue().serve()
        }, Unmanaged.passRetained(setup).toOpaque())
    guard result == 0 else { fail("pthread_create") }
    print("ready")
    fflush(nil)
    let answerer = NFSDatagramAnswerer()
    while true { answerer.answer(on: descriptor, waits: true) }
}

/// Replies, complete but for the XID.
private struct NFSReplies {
    /// Octets of the longest reply.
    static let lengthMaximum = 128

    // accept_stat (RFC 5531 section 9).
    private let success = NFSReplies.accepted([0])
    private let programUnavailable = NFSReplies.accepted([1])
    private let programMismatch = NFSReplies.accepted(
        [2, NFSMessages.version, NFSMessages.version])
    private let procedureUnavailable = NFSReplies.accepted([3])
    private let garbageArguments = NFSReplies.accepted([4])
    /// NFS3ERR_STALE.
    private let stale = NFSReplies.accepted([0, 70])
    /// The handle, and AUTH_SYS as the only flavor.
    private let mounted =
        NFSReplies.accepted([0, 0]) + NFSMessages.opaque(NFSMessages.handle) + bigEndian([1, 1])
    /// GETATTR: fattr3 (RFC 1813 section 2.5) of a directory.
    private let directory = NFSReplies.accepted([
        0, 0,
        // Type, mode, links, user, group.
        2, 0o755, 2, 0, 0,
        // Two words each: size, octets used, device, file system, file number.
        0, 4_096, 0, 4_096, 0, 0, 0, 1, 0, 64,
        // Times of access, modification and change.
        1_700_000_000, 0, 1_700_000_000, 0, 1_700_000_000, 0,
    ])

    /// XID, REPLY, MSG_ACCEPTED, AUTH_NONE without a body; then `words`.
    private static func accepted(_ words: [UInt32]) -> [UInt8] {
        bigEndian([0, 1, 0, 0, 0] + words)
    }

    /// Writes the reply to a call to `place`; returns how many octets it has, 0: there is none.
    func answer(
        _ call: UnsafeMutableRawPointer, _ length: Int, into place: UnsafeMutableRawPointer
    ) -> Int {
        guard let arguments = NFSMessages.arguments(call, length) else { return 0 }
        let reply = reply(call, length, arguments)
        UnsafeMutableRawBufferPointer(start: place, count: reply.count).copyBytes(from: reply)
        place.set32(call.field32(0), 0)
        return reply.count
    }

    private func reply(
        _ call: UnsafeMutableRawPointer, _ length: Int, _ arguments: Int
    ) -> [UInt8] {
        let isMount = call.field32(12) == NFSMessages.mountProgram
        guard isMount || call.field32(12) == NFSMessages.program else { return programUnavailable }
        guard call.field32(16) == NFSMessages.version else { return programMismatch }
        switch (isMount, call.field32(20)) {
        case (_, 0): return success
        case (true, NFSMessages.mount): return mounted
        // UMNT and UMNTALL.
        case (true, 3), (true, 4): return success
        case (false, NFSMessages.getattr):
            return attributes(call + arguments, length - arguments)
        default: return procedureUnavailable
        }
    }

    /// Only for our handle: one that a redirector has not given back as it was is an error.
    private func attributes(_ arguments: UnsafeMutableRawPointer, _ length: Int) -> [UInt8] {
        let handle = NFSMessages.handle
        guard length >= 4, Int(arguments.field32(0)) <= NFSMessages.handleMaximum else {
            return garbageArguments
        }
        guard length >= 4 + handle.count, Int(arguments.field32(0)) == handle.count,
            memcmp(arguments + 4, handle, handle.count) == 0
        else { return stale }
        return directory
    }
}

/// Answers calls over UDP, as many at once as there are.
private final class NFSDatagramAnswerer {
    private let replies = NFSReplies()
    private let input = DatagramBatch(room: NFSMessages.lengthMaximum)
    private let output = DatagramBatch(room: NFSReplies.lengthMaximum)

    func answer(on descriptor: Int32, waits: Bool) {
        input.receive(from: descriptor, waits: waits)
        for index in 0..<input.count {
            let length = replies.answer(
                input.octets(index), input.length(index), into: output.next)
            if length > 0 { output.append(length, to: input.peer(index)) }
        }
        output.send(on: descriptor, hasPeers: true)
    }
}

/// MOUNT, and NFS over TCP: how clients and redirectors begin, and how a redirector looks whether
/// the server is there.
private final class NFSSetupServer {
    private let replies = NFSReplies()
    private let answerer = NFSDatagramAnswerer()
    private let datagrams: Int32
    /// Listeners for NFS and MOUNT, datagrams of MOUNT, connections.
    private var watched: [pollfd]
    private var connections: [Int32: RPCConnection] = [:]

    init(port: UInt16, mountPort: UInt16) {
        datagrams = makeDatagramListener(mountPort)
        watched = [makeListener(port), makeListener(mountPort), datagrams].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
    }

    func serve() -> Never {
        while true {
            guard poll(&watched, nfds_t(watched.count), -1) > 0 else { continue }
            for index in 0..<2 where watched[index].revents != 0 { acceptPeer(watched[index].fd) }
            if watched[2].revents != 0 { answerer.answer(on: datagrams, waits: false) }
            var hasClosed = false
            for index in 3..<max(3, watched.count) where watched[index].revents != 0 {
                let descriptor = watched[index].fd
                guard connections[descriptor]?.serve(replies) != true else { continue }
                connections[descriptor] = nil
                watched[index].fd = -1
                hasClosed = true
            }
            if hasClosed { watched.removeAll { $0.fd < 0 } }
        }
    }

    private func acceptPeer(_ listener: Int32) {
        let peer = accept(listener, nil, nil)
        guard peer >= 0 else { return }
        setOption(peer, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        connections[peer] = RPCConnection(peer)
        watched.append(pollfd(fd: peer, events: Int16(POLLIN), revents: 0))
    }
}

/// Calls over a TCP connection.
private final class RPCConnection {
    private let descriptor: Int32
    private static let inputSize = 64 << 10
    private let input = UnsafeMutableRawPointer.allocate(
        byteCount: RPCConnection.inputSize, alignment: 8)
    private let output = UnsafeMutableRawPointer.allocate(
        byteCount: 4 + NFSReplies.lengthMaximum, alignment: 8)
    /// Octets in `input`.
    private var tail = 0

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit {
        close(descriptor)
        input.deallocate()
        output.deallocate()
    }

    // RFC 5531 section 11: a fragment has a word in front of it, whose highest bit marks the last
    // one of a record; the others are its length in octets. Calls as short as these have one.
    /// Answers what has come; false: the connection is over.
    func serve(_ replies: NFSReplies) -> Bool {
        let octets = recv(descriptor, input + tail, Self.inputSize - tail, 0)
        guard octets > 0 else { return false }
        tail += octets
        var head = 0
        while tail - head >= 4 {
            let mark = (input + head).field32(0)
            let length = Int(mark & 0x7fff_ffff)
            guard mark >> 31 == 1, length <= NFSMessages.lengthMaximum else { return false }
            guard tail - head - 4 >= length else { break }
            let replied = replies.answer(input + head + 4, length, into: output + 4)
            output.set32(0x8000_0000 | UInt32(replied), 0)
            guard replied > 0, send(descriptor, output, replied + 4, noSignal) == replied + 4
            else { return false }
            head += 4 + length
        }
        memmove(input, input + head, tail - head)
        tail -= head
        return true
    }
}
