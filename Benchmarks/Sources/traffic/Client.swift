import Glibc

/// What one run gave: `value` in the unit of its kind, and the machine's CPU seconds.
struct Measurement {
    var value: Double
    /// For bulk: CPU seconds for each GB (10^9 octets) delivered; else 0.
    var cpuPerGigabyte = 0.0
}

/// Gbit/s that `flows` connections deliver in `seconds`.
func bulk(_ remote: sockaddr_in, flows: Int, seconds: Double) -> Measurement {
    let size = 1 << 18
    let buffer = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
    memset(buffer, Int32(UInt8(ascii: "B")), size)
    var watched: [pollfd] = []
    for _ in 0..<flows {
        let descriptor = makeSocket()
        connectSocket(descriptor, remote)
        setNonBlocking(descriptor)
        watched.append(pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0))
    }
    func run(until end: Double) {
        while now() < end {
            guard poll(&watched, nfds_t(flows), 100) > 0 else { continue }
            for entry in watched where entry.revents != 0 {
                let sent = send(entry.fd, buffer, size, noSignal)
                if sent < 0, errno != EAGAIN { fail("send") }
            }
        }
    }
    /// Octets that the far ends have acknowledged.
    func delivered() -> Double {
        watched.reduce(0) { $0 + Double(acknowledgedOctets($1.fd)) }
    }
    run(until: now() + 0.3)
    let (octets, cpu, start) = (delivered(), machineCPU(), now())
    run(until: start + seconds)
    let elapsed = now() - start
    let moved = delivered() - octets
    let spent = machineCPU() - cpu
    for entry in watched { close(entry.fd) }
    guard moved > 0 else { fail("nothing was delivered") }
    return Measurement(value: moved * 8 / elapsed / 1e9, cpuPerGigabyte: spent / (moved / 1e9))
}

/// `tcpi_bytes_acked`, at octet 120 of `struct tcp_info` (linux/tcp.h).
private func acknowledgedOctets(_ descriptor: Int32) -> UInt64 {
    var info = [UInt8](repeating: 0, count: 256)
    var length = socklen_t(256)
    guard getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_INFO, &info, &length) == 0, length >= 128
    else { fail("TCP_INFO") }
    return info.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 120, as: UInt64.self) }
}

/// Thousands of 64-octet requests answered a second, one outstanding on each connection.
func requests(_ remote: sockaddr_in, connections: Int, seconds: Double) -> Measurement {
    var message = [UInt8](repeating: UInt8(ascii: "r"), count: 64)
    var watched: [pollfd] = []
    for _ in 0..<connections {
        let descriptor = makeSocket()
        connectSocket(descriptor, remote)
        setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        watched.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
    }
    let sockets = watched.map(\.fd)
    // Until every connection had an answer, so that set-up is not measured.
    for descriptor in sockets {
        for _ in 0..<20 {
            send(descriptor, message, 64, 0)
            var got = 0
            while got < 64 {
                let octets = recv(descriptor, &message, 64 - got, 0)
                guard octets > 0 else { fail("recv") }
                got += octets
            }
        }
    }
    usleep(100_000)
    for descriptor in sockets { send(descriptor, message, 64, 0) }
    var answered = 0
    var partial = [Int](repeating: 0, count: connections)
    let start = now()
    while now() - start < seconds {
        guard poll(&watched, nfds_t(connections), 100) > 0 else { continue }
        for index in watched.indices where watched[index].revents != 0 {
            let octets = recv(watched[index].fd, &message, 64, 0)
            guard octets > 0 else { fail("recv") }
            partial[index] += octets
            if partial[index] == 64 {
                partial[index] = 0
                answered += 1
                send(watched[index].fd, message, 64, 0)
            }
        }
    }
    let elapsed = now() - start
    for descriptor in sockets { close(descriptor) }
    guard answered > 0 else { fail("nothing was answered") }
    return Measurement(value: Double(answered) / elapsed / 1_000)
}

/// Thousands of connect, request, answer, close a second, one after the other.
func connects(_ remote: sockaddr_in, seconds: Double) -> Measurement {
    var message = [UInt8](repeating: UInt8(ascii: "c"), count: 64)
    var count = 0
    let start = now()
    while now() - start < seconds {
        let descriptor = makeSocket()
        // Without TIME_WAIT at the client, or its ports run out.
        var linger = linger(l_onoff: 1, l_linger: 0)
        connectSocket(descriptor, remote)
        send(descriptor, message, 64, 0)
        guard recv(descriptor, &message, 64, 0) > 0 else { fail("recv") }
        setsockopt(
            descriptor, SOL_SOCKET, SO_LINGER, &linger,
            socklen_t(MemoryLayout.size(ofValue: linger)))
        close(descriptor)
        count += 1
    }
    return Measurement(value: Double(count) / (now() - start) / 1_000)
}

/// Thousands of 64-octet datagrams that arrive a second when as many as possible are sent.
func datagrams(_ remote: sockaddr_in, seconds: Double) -> Measurement {
    let descriptor = makeSocket(datagrams: true)
    connectSocket(descriptor, remote)
    var timeout = timeval(tv_sec: 1, tv_usec: 0)
    setsockopt(
        descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    var message = [UInt8](repeating: UInt8(ascii: "u"), count: 64)
    func arrived() -> UInt64 {
        var query = [UInt8](repeating: UInt8(ascii: "?"), count: 64)
        var count: UInt64 = 0
        for _ in 0..<10 {
            query[0] = UInt8(ascii: "?")
            send(descriptor, query, 64, 0)
            if recv(descriptor, &count, 8, 0) == 8 { return count }
        }
        fail("no answer from the datagram server")
    }
    let before = arrived()
    let start = now()
    while now() - start < seconds {
        for _ in 0..<32 { send(descriptor, &message, 64, 0) }
    }
    let elapsed = now() - start
    usleep(100_000)
    let count = arrived() - before
    close(descriptor)
    return Measurement(value: Double(count) / elapsed / 1_000)
}
