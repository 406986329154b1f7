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

    /// So many segments may be sent on a connection with an end in this network before the first of them is acknowledged
    /// (`initcwnd` of ip-route(8)): the route that came with an address of the device is replaced by one that says so.
    public func setInitialWindow(
        _ prefix: IPPrefix, interfaceIndex: Int32, segments: UInt32
    ) throws(NetlinkError) {
        let isIPv4 = prefix.address.isIPv4
        // Nobody else is in such a network.
        guard prefix.length < (isIPv4 ? 32 : 128) else { return }
        let operation = "initcwnd of \(prefix)"
        guard let route = rtnl_route_alloc() else {
            throw NetlinkError(operation: operation, message: "no memory")
        }
        defer { rtnl_route_put(route) }
        guard let network = native(IPPrefix(address: prefix.network, length: prefix.length)),
            let source = native(
                IPPrefix(address: prefix.address, length: isIPv4 ? 32 : 128)),
            let hop = rtnl_route_nh_alloc()
        else { throw NetlinkError(operation: operation, message: "no memory") }
        defer {
            nl_addr_put(network)
            nl_addr_put(source)
        }
        // As the kernel made it, or it would stay beside this one.
        rtnl_route_set_table(route, UInt32(RT_TABLE_MAIN.rawValue))
        rtnl_route_set_protocol(route, 2)  // RTPROT_KERNEL
        rtnl_route_set_scope(
            route, UInt8(isIPv4 ? RT_SCOPE_LINK.rawValue : RT_SCOPE_UNIVERSE.rawValue))
        if isIPv4 {
            try check(operation, rtnl_route_set_pref_src(route, source))
        } else {
            rtnl_route_set_priority(route, 256)  // IP6_RT_PRIO_ADDRCONF
        }
        try check(operation, rtnl_route_set_dst(route, network))
        try check(operation, rtnl_route_set_metric(route, 11, segments))  // RTAX_INITCWND
        rtnl_route_nh_set_ifindex(hop, interfaceIndex)
        rtnl_route_add_nexthop(route, hop)
        try check(
            operation, rtnl_route_add(socket, route, Int32(NLM_F_CREATE | NLM_F_REPLACE)))
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
