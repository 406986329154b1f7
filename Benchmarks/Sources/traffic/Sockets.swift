import Glibc

/// `MSG_NOSIGNAL`: an error instead of a signal when the other end is gone.
let noSignal: Int32 = 0x4000

/// To the standard error output.
func report(_ text: String) {
    let line = Array((text + "\n").utf8)
    _ = write(2, line, line.count)
}

/// Ends the program with a reason: a benchmark that goes on after a failure measures the failure.
func fail(_ what: String) -> Never {
    let reason = String(cString: strerror(errno))
    report("traffic: \(what): \(reason)")
    exit(1)
}

/// An IPv4 socket address.
func address(_ host: String, _ port: UInt16) -> sockaddr_in {
    var result = sockaddr_in()
    result.sin_family = sa_family_t(AF_INET)
    result.sin_port = port.bigEndian
    guard inet_pton(AF_INET, host, &result.sin_addr) == 1 else { fail("address \(host)") }
    return result
}

private func with<R>(
    _ address: sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
) -> R {
    var copy = address
    return withUnsafePointer(to: &copy) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}

func makeSocket(datagrams: Bool = false) -> Int32 {
    let type = datagrams ? SOCK_DGRAM : SOCK_STREAM
    let result = socket(AF_INET, Int32(type.rawValue), 0)
    guard result >= 0 else { fail("socket") }
    return result
}

func setOption(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
    var copy = value
    setsockopt(descriptor, level, option, &copy, socklen_t(MemoryLayout<Int32>.size))
}

func bindSocket(_ descriptor: Int32, _ local: sockaddr_in) {
    guard with(local, { bind(descriptor, $0, $1) }) == 0 else { fail("bind") }
}

func connectSocket(_ descriptor: Int32, _ remote: sockaddr_in) {
    guard with(remote, { connect(descriptor, $0, $1) }) == 0 else { fail("connect") }
}

func setNonBlocking(_ descriptor: Int32) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
}

/// Seconds of the monotonic clock.
func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// CPU seconds that the whole machine has spent, whoever did: a forwarder in the kernel has no process of
/// its own to be charged.
func machineCPU() -> Double {
    guard let file = fopen("/proc/stat", "r") else { fail("/proc/stat") }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 512)
    fgets(&line, 512, file)
    let fields = String(
        decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self
    )
    .split(separator: " ").dropFirst().compactMap { Double($0) }
    // user nice system idle iowait irq softirq steal
    guard fields.count >= 7 else { fail("/proc/stat") }
    let busy = fields[0] + fields[1] + fields[2] + fields[5] + fields[6]
    return busy / Double(sysconf(Int32(_SC_CLK_TCK)))
}

/// Takes datagrams to a port of all addresses.
func makeDatagramListener(_ port: UInt16) -> Int32 {
    let result = makeSocket(datagrams: true)
    setOption(result, SOL_SOCKET, SO_RCVBUF, 4 << 20)
    bindSocket(result, address("0.0.0.0", port))
    return result
}

/// Listens on all addresses, without blocking.
func makeListener(_ port: UInt16) -> Int32 {
    let listener = makeSocket()
    setOption(listener, SOL_SOCKET, SO_REUSEADDR, 1)
    bindSocket(listener, address("0.0.0.0", port))
    guard listen(listener, 1_024) == 0 else { fail("listen") }
    setNonBlocking(listener)
    return listener
}
