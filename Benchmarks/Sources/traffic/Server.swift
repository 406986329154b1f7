import Glibc

/// The far end of all tests on one TCP and one UDP port. A connection whose first octet is "B" is read and
/// thrown away (bulk); any other gets back what it sends. Datagrams are counted; one that starts with "?"
/// is answered with the count.
func serve(port: UInt16) -> Never {
    let listener = makeListener(port)
    let datagrams = makeDatagramListener(port)
    setNonBlocking(datagrams)
    var watched = [listener, datagrams].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
    var isBulk: [Int32: Bool] = [:]
    var received: UInt64 = 0
    let size = 1 << 20
    let buffer = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
    print("ready")
    fflush(nil)
    while true {
        guard poll(&watched, nfds_t(watched.count), -1) > 0 else { continue }
        if watched[0].revents != 0 {
            let peer = accept(listener, nil, nil)
            if peer >= 0 {
                setOption(peer, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
                watched.append(pollfd(fd: peer, events: Int16(POLLIN), revents: 0))
            }
        }
        if watched[1].revents != 0 { countDatagrams(datagrams, buffer, size, &received) }
        var hasClosed = false
        for index in 2..<max(2, watched.count) where watched[index].revents != 0 {
            let descriptor = watched[index].fd
            let octets = recv(descriptor, buffer, size, 0)
            guard octets > 0 else {
                isBulk[descriptor] = nil
                close(descriptor)
                watched[index].fd = -1
                hasClosed = true
                continue
            }
            if isBulk[descriptor] == nil {
                isBulk[descriptor] = buffer.load(as: UInt8.self) == UInt8(ascii: "B")
            }
            if isBulk[descriptor] == false {
                _ = send(descriptor, buffer, octets, noSignal)
            }
        }
        if hasClosed { watched.removeAll { $0.fd < 0 } }
    }
}

private func countDatagrams(
    _ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ size: Int, _ received: inout UInt64
) {
    var peer = sockaddr_in()
    for _ in 0..<64 {
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let octets = withUnsafeMutablePointer(to: &peer) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                recvfrom(descriptor, buffer, size, 0, $0, &length)
            }
        }
        guard octets > 0 else { return }
        if buffer.load(as: UInt8.self) == UInt8(ascii: "?") {
            withUnsafePointer(to: &peer) {
                _ = $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    sendto(descriptor, &received, 8, 0, $0, length)
                }
            }
        } else {
            received += 1
        }
    }
}
