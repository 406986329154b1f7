import Glibc

/// Version of a Linux kernel, as far as it tells what the kernel can do.
struct KernelVersion: Comparable {
    let major: Int
    let minor: Int

    /// Takes frames of several datagrams from packet sockets (virtio_net_hdr with VIRTIO_NET_HDR_GSO_UDP_L4).
    static let udpSegmentation = KernelVersion(major: 6, minor: 2)

    /// What runs here; 0.0 when it does not say.
    static let running: KernelVersion = {
        var name = utsname()
        guard uname(&name) == 0 else { return KernelVersion(major: 0, minor: 0) }
        let release = withUnsafeBytes(of: &name.release) { octets in
            String(decoding: octets.prefix { $0 != 0 }, as: UTF8.self)
        }
        let parts = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        guard parts.count == 2 else { return KernelVersion(major: 0, minor: 0) }
        return KernelVersion(major: parts[0], minor: parts[1])
    }()

    static func < (one: KernelVersion, other: KernelVersion) -> Bool {
        (one.major, one.minor) < (other.major, other.minor)
    }
}
