import Glibc

/// GETATTR calls over UDP, always the same number of them open at each socket.
struct NFSLoad {
    private let remote: sockaddr_in
    private let mountRemote: sockaddr_in
    private let export: String
    private let seconds: Double
    /// Calls that are open at each socket.
    private let depth: Int
    private let sockets: Int

    /// `words`: ADDRESS PORT MOUNTPORT EXPORT SECONDS DEPTH [SOCKETS]; nil: they are not these.
    init?(_ words: [String]) {
        guard (6...7).contains(words.count), let port = UInt16(words[1]),
            let mountPort = UInt16(words[2]), let seconds = Double(words[4]), seconds > 0,
            let depth = Int(words[5]), (1...NFSCaller.depthMaximum).contains(depth),
            let sockets = words.count == 7 ? Int(words[6]) : 1, (1...256).contains(sockets)
        else { return nil }
        remote = address(words[0], port)
        mountRemote = address(words[0], mountPort)
        export = words[3]
        self.seconds = seconds
        self.depth = depth
        self.sockets = sockets
    }

    /// Thousands of replies a second; the time that half of the calls and that 99 of 100 take at
    /// most, us; calls that were sent again.
    func run() -> String {
        let handle = mount()
        let callers = (0..<sockets).map { _ in
            NFSCaller(remote, handle: handle, depth: depth)
        }
        for caller in callers { caller.start() }
        // A redirector lets the calls into its fast path meanwhile.
        run(callers, until: now() + 0.5)
        for caller in callers { caller.forget() }
        let start = now()
        run(callers, until: start + seconds)
        let elapsed = now() - start
        let latencies = callers.flatMap(\.latencies).sorted()
        guard !latencies.isEmpty else { fail("nothing was answered") }
        let retransmissions = callers.reduce(0) { $0 + $1.retransmissions }
        let half = latencies[latencies.count / 2] * 1e6
        let most = latencies[latencies.count * 99 / 100] * 1e6
        let rate = Double(latencies.count) / elapsed / 1_000
        return "\(rate) \(half) \(most) \(retransmissions)"
    }

    private func run(_ callers: [NFSCaller], until end: Double) {
        var watched = callers.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
        var check = now()
        while true {
            let time = now()
            guard time < end else { return }
            if time >= check {
                for caller in callers { caller.sendAgain(time) }
                check = time + 0.1
            }
            guard poll(&watched, nfds_t(watched.count), 100) > 0 else { continue }
            for (caller, entry) in zip(callers, watched) where entry.revents != 0 {
                caller.receive()
            }
        }
    }

    /// The handle of the export. Asked for over UDP, until a redirector that has just been started
    /// is ready.
    private func mount() -> [UInt8] {
        let descriptor = makeSocket(datagrams: true)
        defer { close(descriptor) }
        connectSocket(descriptor, mountRemote)
        var timeout = timeval(tv_sec: 0, tv_usec: 500_000)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        let call = NFSMessages.call(
            program: NFSMessages.mountProgram, procedure: NFSMessages.mount,
            arguments: NFSMessages.opaque(Array(export.utf8)))
        let reply = UnsafeMutableRawPointer.allocate(
            byteCount: NFSMessages.lengthMaximum, alignment: 8)
        defer { reply.deallocate() }
        for _ in 0..<20 {
            send(descriptor, call, call.count, noSignal)
            let octets = recv(descriptor, reply, NFSMessages.lengthMaximum, 0)
            guard octets > 0 else {
                // Nobody listens there yet.
                if errno == ECONNREFUSED { usleep(500_000) }
                continue
            }
            guard let handle = NFSMessages.mounted(reply, octets) else {
                errno = EPROTO
                fail("MNT \(export)")
            }
            return handle
        }
        fail("no answer to MNT \(export)")
    }
}

/// One socket with its open calls.
private final class NFSCaller {
    /// The low bits of an XID are the place of its call.
    static let depthMaximum = 1_024
    /// Seconds.
    private static let timeout = 0.5

    private struct Call {
        var xid: UInt32
        /// When it was sent first, and when last.
        var startedAt = 0.0
        var sentAt = 0.0
    }

    let descriptor: Int32
    private var calls: [Call]
    private let message: [UInt8]
    private let input = DatagramBatch(room: NFSMessages.lengthMaximum)
    private let output = DatagramBatch(room: NFSMessages.lengthMaximum)
    /// Seconds, of each call that was answered.
    private(set) var latencies: [Double] = []
    private(set) var retransmissions = 0

    init(_ remote: sockaddr_in, handle: [UInt8], depth: Int) {
        descriptor = makeSocket(datagrams: true)
        setOption(descriptor, SOL_SOCKET, SO_RCVBUF, 4 << 20)
        connectSocket(descriptor, remote)
        message = NFSMessages.call(
            program: NFSMessages.program, procedure: NFSMessages.getattr,
            arguments: NFSMessages.opaque(handle))
        // Another run's late replies have other ones.
        let first = UInt32.random(in: 0 ... .max) & ~UInt32(Self.depthMaximum - 1)
        calls = (0..<depth).map { Call(xid: first | UInt32($0)) }
        // They differ by the XID only.
        for index in 0..<DatagramBatch.limit {
            UnsafeMutableRawBufferPointer(start: output.octets(index), count: message.count)
                .copyBytes(from: message)
        }
    }

    deinit { close(descriptor) }

    func start() {
        let time = now()
        for index in calls.indices { issue(index, time) }
        output.send(on: descriptor, hasPeers: false)
    }

    /// What was before does not count.
    func forget() {
        latencies = []
        retransmissions = 0
    }

    func receive() {
        input.receive(from: descriptor, waits: false)
        let time = now()
        for index in 0..<input.count { take(input.octets(index), input.length(index), time) }
        output.send(on: descriptor, hasPeers: false)
    }

    /// Says calls again that have had no reply for long.
    func sendAgain(_ time: Double) {
        for index in calls.indices where time - calls[index].sentAt >= Self.timeout {
            retransmissions += 1
            queue(index, time)
        }
        output.send(on: descriptor, hasPeers: false)
    }

    private func issue(_ index: Int, _ time: Double) {
        calls[index].xid &+= UInt32(Self.depthMaximum)
        calls[index].startedAt = time
        queue(index, time)
    }

    private func queue(_ index: Int, _ time: Double) {
        calls[index].sentAt = time
        output.next.set32(calls[index].xid, 0)
        output.append(message.count)
        if output.isFull { output.send(on: descriptor, hasPeers: false) }
    }

    private func take(_ reply: UnsafeMutableRawPointer, _ length: Int, _ time: Double) {
        guard length >= 4 else { return }
        let xid = reply.field32(0)
        let index = Int(xid) & (Self.depthMaximum - 1)
        // Otherwise the second reply to a call that was said again.
        guard index < calls.count, calls[index].xid == xid else { return }
        guard let results = NFSMessages.results(reply, length), length >= results + 4,
            reply.field32(results) == 0
        else {
            errno = EPROTO
            fail("GETATTR")
        }
        latencies.append(time - calls[index].startedAt)
        issue(index, time)
    }
}
