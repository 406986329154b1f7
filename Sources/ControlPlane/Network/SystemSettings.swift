import Glibc

/// Settings of the network namespace that the switch needs, through /proc/sys/net.
public enum SystemSettings {
    /// Writes one; false when the kernel does not have it or refuses.
    @discardableResult
    static func write(_ name: String, _ value: String) -> Bool {
        let descriptor = open("/proc/sys/net/\(name)", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        let written = Array(value.utf8).withUnsafeBytes {
            Glibc.write(descriptor, $0.baseAddress, $0.count)
        }
        return written == value.utf8.count
    }

    /// The namespace's TCP as splices need it. ECN, fast open and MTU probing would make the two legs of
    /// a session differ; a socket made from a SYN cookie has lost its options.
    public static func prepareNamespace() -> [String] {
        let wanted = [
            ("ipv4/tcp_ecn", "0"), ("ipv4/tcp_fastopen", "0"), ("ipv4/tcp_mtu_probing", "0"),
            ("ipv4/tcp_syncookies", "0"), ("ipv4/ip_forward", "0"),
            ("ipv6/conf/all/forwarding", "0"), ("core/somaxconn", "4096"),
            ("ipv4/tcp_max_syn_backlog", "4096"), ("ipv4/conf/all/rp_filter", "0"),
            // Else the kernel answers ARP for a virtual address at the port where the question came in,
            // with the port's own MAC address, and takes the packets past the switch.
            ("ipv4/conf/all/arp_ignore", "1"),
        ]
        return wanted.filter { !write($0.0, $0.1) }.map(\.0)
    }

    /// A session has two sockets while it is relayed: as many descriptors as the system lets us have.
    static func raiseDescriptorLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    /// A network port belongs to the switch: the kernel says nothing there of its own.
    public static func preparePort(_ device: String) {
        write("ipv4/conf/\(device)/arp_ignore", "8")
        write("ipv6/conf/\(device)/disable_ipv6", "1")
    }

    /// A CPU device answers only for its own addresses, and does not configure itself.
    public static func prepareDevice(_ device: String) {
        write("ipv4/conf/\(device)/rp_filter", "0")
        write("ipv4/conf/\(device)/arp_ignore", "1")
        write("ipv4/conf/\(device)/arp_announce", "2")
        write("ipv6/conf/\(device)/disable_ipv6", "0")
        write("ipv6/conf/\(device)/accept_ra", "0")
        write("ipv6/conf/\(device)/accept_dad", "0")
        write("ipv6/conf/\(device)/addr_gen_mode", "1")
    }
}
