import CNetlink
public import DataPlane
import Glibc

/// A request that the kernel's routing socket refused.
public struct NetlinkError: Error, CustomStringConvertible, Sendable {
    public var operation: String
    public var message: String
    public var description: String { "\(operation): \(message)" }
}

/// Links, addresses and neighbours of the calling thread's network namespace, through libnl.
public final class Netlink {
    private let socket: OpaquePointer

    public init() throws(NetlinkError) {
        guard let socket = nl_socket_alloc() else {
            throw NetlinkError(operation: "netlink", message: "no memory")
        }
        self.socket = socket
        let result = nl_connect(socket, NETLINK_ROUTE)
        guard result == 0 else {
            throw NetlinkError(operation: "netlink", message: Self.text(result))
        }
    }

    deinit { nl_socket_free(socket) }

    private static func text(_ code: Int32) -> String { String(cString: nl_geterror(code)) }

    private func check(_ operation: String, _ result: Int32) throws(NetlinkError) {
        guard result >= 0 else {
            throw NetlinkError(operation: operation, message: Self.text(result))
        }
    }

    private func native(_ prefix: IPPrefix) -> OpaquePointer? {
        var octets: [UInt8] = []
        if prefix.address.isIPv4 {
            octets = withUnsafeBytes(of: prefix.address.v4.bigEndian) { Array($0) }
        } else {
            octets = withUnsafeBytes(of: prefix.address.high.bigEndian) { Array($0) }
            octets += withUnsafeBytes(of: prefix.address.low.bigEndian) { Array($0) }
        }
        let address = nl_addr_build(
            prefix.address.isIPv4 ? AF_INET : AF_INET6, octets, octets.count)
        if let address { nl_addr_set_prefixlen(address, Int32(prefix.length)) }
        return address
    }

    /// Adds an address to a device, without duplicate address detection.
    public func addAddress(_ prefix: IPPrefix, interfaceIndex: Int32) throws(NetlinkError) {
        guard let address = rtnl_addr_alloc(), let local = native(prefix) else {
            throw NetlinkError(operation: "address \(prefix)", message: "no memory")
        }
        defer {
            nl_addr_put(local)
            rtnl_addr_put(address)
        }
        rtnl_addr_set_ifindex(address, interfaceIndex)
        rtnl_addr_set_local(address, local)
        if !prefix.address.isIPv4 { rtnl_addr_set_flags(address, 0x02) }  // IFA_F_NODAD
        try check("add address \(prefix)", rtnl_addr_add(socket, address, 0))
    }

    /// MAC address of a neighbour of a device, when the kernel knows it.
    public func neighbour(
        _ wanted: IPAddress, interfaceIndex: Int32
    ) throws(NetlinkError) -> MACAddress? {
        var cache: OpaquePointer?
        try check("list neighbours", rtnl_neigh_alloc_cache(socket, &cache))
        guard let cache else { return nil }
        defer { nl_cache_free(cache) }
        guard let address = native(IPPrefix(address: wanted, length: wanted.isIPv4 ? 32 : 128)),
            let neighbour = rtnl_neigh_get(cache, interfaceIndex, address)
        else { return nil }
        defer {
            nl_addr_put(address)
            rtnl_neigh_put(neighbour)
        }
        guard let link = rtnl_neigh_get_lladdr(neighbour), nl_addr_get_len(link) == 6,
            let bytes = nl_addr_get_binary_addr(link)
        else { return nil }
        let octets = UnsafeRawBufferPointer(start: bytes, count: 6)
        return MACAddress(rawValue: octets.reduce(0) { $0 << 8 | UInt64($1) })
    }
}
