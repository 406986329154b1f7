/// Answers as rpcbind does (RFC 1833): port mapper version 2, rpcbind versions 3 and 4, from a table that only its
/// owner changes. Datagrams or records of a stream in, those for the way back out.
public struct Portmapper: Equatable, Sendable {
    public static let program: UInt32 = 100_000
    /// Of TCP and UDP.
    public static let port: UInt16 = 111
    public static let versions: ClosedRange<UInt32> = 2...4
    /// Octets of a network identifier, an address or an owner in a call; RFC 1833 has no bound. Beyond it the
    /// arguments are refused.
    static let textMaximum = 1_024

    /// By protocol number, as version 2 says it (RFC 1833 section 3.1).
    public enum Transport: UInt32, Hashable, Sendable {
        case tcp = 6
        case udp = 17
    }

    /// A service that is told.
    public struct Registration: Hashable, Sendable {
        public var program: UInt32
        public var version: UInt32
        public var transport: Transport
        public var port: UInt16

        public init(program: UInt32, version: UInt32, transport: Transport, port: UInt16) {
            self.program = program
            self.version = version
            self.transport = transport
            self.port = port
        }
    }

    /// Where a call came in.
    public struct Listener: Equatable, Sendable {
        public var transport: Transport
        /// Where services are reached, each 4 octets of IPv4 or 16 of IPv6, others do not count: first the address
        /// that the call was sent to. Of each family the first is told.
        public var addresses: [[UInt8]]

        public init(transport: Transport, addresses: [[UInt8]]) {
            self.transport = transport
            self.addresses = addresses
        }
    }

    /// In the order of DUMP; the first that fits is told. Of rpcbind itself, only what stands here is told.
    public var registrations: [Registration]

    public init(_ registrations: [Registration]) { self.registrations = registrations }

    /// The reply to a call; nil when the message is none.
    /// - Parameter time: seconds since 1970, for GETTIME; nil: there is no such procedure.
    public func answer(
        _ message: [UInt8], at listener: Listener, time: UInt32? = nil
    ) -> [UInt8]? {
        message.withUnsafeBytes { raw -> [UInt8]? in
            var reader = XDRReader(raw)
            return answer(&reader, listener, time)
        }
    }

    private func answer(
        _ reader: inout XDRReader, _ listener: Listener, _ time: UInt32?
    ) -> [UInt8]? {
        let header: RPCCallHeader
        do throws(RPCError) {
            header = try RPCCallHeader(&reader)
        } catch {
            guard case .unsupportedVersion(_, xid: let xid) = error else { return nil }
            return RPCMessage.reply(
                xid: xid,
                refusal: .versionMismatch(low: RPCMessage.rpcVersion, high: RPCMessage.rpcVersion))
        }
        do throws(RPCRefusal) {
            let found = try results(header, &reader, listener, time)
            return RPCMessage.reply(xid: header.xid, results: found)
        } catch {
            return RPCMessage.reply(xid: header.xid, refusal: error)
        }
    }

    private func results(
        _ header: RPCCallHeader, _ reader: inout XDRReader, _ listener: Listener, _ time: UInt32?
    ) throws(RPCRefusal) -> [UInt8] {
        // Who calls does not matter, but what we cannot speak must not be answered as if we did. AUTH_SHORT is among
        // it: it stands for a credential that we have never given (RFC 5531 appendix A).
        guard [RPCFlavor.none, RPCFlavor.system].contains(header.credential.flavor) else {
            throw .authenticationError(.rejectedCredential)
        }
        guard header.program == Self.program else { throw .programUnavailable }
        guard Self.versions.contains(header.version) else {
            throw .programMismatch(low: Self.versions.lowerBound, high: Self.versions.upperBound)
        }
        // RFC 1833 sections 2.1 and 3.1: up to 4 the numbers mean the same in all versions.
        let isPortMapper = header.version == 2
        switch header.procedure {
        case 0: return []
        // SET and UNSET: the table is not the callers'. RFC 1833 section 2.2.2: "RPCBIND only accepts RPCBPROC_SET
        // and RPCBPROC_UNSET requests by clients running on the same machine".
        case 1, 2:
            if isPortMapper {
                _ = try Self.mapping(&reader)
            } else {
                _ = try Self.binding(&reader)
            }
            return Self.written { $0.bool(false) }
        case 3:
            if isPortMapper { return portResult(try Self.mapping(&reader)) }
            return addressResult(try Self.binding(&reader), listener)
        case 4: return isPortMapper ? mappings() : bindings(listener)
        case 6 where !isPortMapper:
            guard let time else { throw .procedureUnavailable }
            return Self.written { $0.uint32(time) }
        // Among them CALLIT, BCAST and INDIRECT: who could call through us would come from our address.
        default: throw .procedureUnavailable
        }
    }

    private func find(
        _ program: UInt32, _ version: UInt32, _ transport: Transport?
    ) -> Registration? {
        registrations.first {
            $0.program == program && $0.version == version && $0.transport == transport
        }
    }

    private static func written(_ write: (inout XDRWriter) -> Void) -> [UInt8] {
        var writer = XDRWriter()
        write(&writer)
        return writer.bytes
    }

    // MARK: Version 2

    /// What GETPORT asks for; a transport that we do not know is nil.
    private struct Mapping {
        var program: UInt32
        var version: UInt32
        var transport: Transport?
    }

    private static func mapping(_ reader: inout XDRReader) throws(RPCRefusal) -> Mapping {
        do throws(XDRError) {
            let program = try reader.uint32()
            let version = try reader.uint32()
            let transport = Transport(rawValue: try reader.uint32())
            // RFC 1833 section 3.2: "The "port" field of the argument is ignored."
            _ = try reader.uint32()
            return Mapping(program: program, version: version, transport: transport)
        } catch {
            throw .garbageArguments
        }
    }

    // RFC 1833 section 3.2: "A port value of zeros means the program has not been registered."
    private func portResult(_ mapping: Mapping) -> [UInt8] {
        let found = find(mapping.program, mapping.version, mapping.transport)
        return Self.written { $0.uint32(UInt32(found?.port ?? 0)) }
    }

    private func mappings() -> [UInt8] {
        Self.written { writer in
            for registration in registrations {
                writer.bool(true)
                writer.uint32(registration.program)
                writer.uint32(registration.version)
                writer.uint32(registration.transport.rawValue)
                writer.uint32(UInt32(registration.port))
            }
            writer.bool(false)
        }
    }

    // MARK: Versions 3 and 4

    /// Network identifiers (RFC 5665 section 5.2) of the transports.
    private enum NetworkIdentifier: String, CaseIterable {
        case tcp, tcp6, udp, udp6

        var transport: Transport {
            switch self {
            case .tcp, .tcp6: .tcp
            case .udp, .udp6: .udp
            }
        }

        /// Octets of an address.
        var addressLength: Int {
            switch self {
            case .tcp, .udp: 4
            case .tcp6, .udp6: 16
            }
        }

        init?(_ listener: Listener) {
            let length = listener.addresses.first?.count
            let found = Self.allCases.first {
                $0.transport == listener.transport && $0.addressLength == length
            }
            guard let found else { return nil }
            self = found
        }
    }

    /// What GETADDR asks for: of rpcb (RFC 1833 section 2.1) what matters here.
    private struct Binding {
        var program: UInt32
        var version: UInt32
        var networkIdentifier: String
    }

    private static func binding(_ reader: inout XDRReader) throws(RPCRefusal) -> Binding {
        do throws(XDRError) {
            let program = try reader.uint32()
            let version = try reader.uint32()
            let identifier = try reader.string(maximum: textMaximum)
            // r_addr and r_owner.
            _ = try reader.opaque(maximum: textMaximum)
            _ = try reader.opaque(maximum: textMaximum)
            return Binding(program: program, version: version, networkIdentifier: identifier)
        } catch {
            throw .garbageArguments
        }
    }

    // RFC 1833 section 2.2.1 on GETADDR: the field r_netid "is ignored and the "r_netid" is inferred from the network
    // identifier of the transport on which the request came in". Callers set it to what they want to use, which is
    // that transport as a rule: so it is followed where it is set.
    /// A universal address; empty when there is none.
    private func addressResult(_ binding: Binding, _ listener: Listener) -> [UInt8] {
        let identifier =
            binding.networkIdentifier.isEmpty
            ? NetworkIdentifier(listener)
            : NetworkIdentifier(rawValue: binding.networkIdentifier)
        let found = find(binding.program, binding.version, identifier?.transport)
        var text = ""
        if let identifier, let found {
            text = Self.address(of: found, identifier, listener) ?? ""
        }
        return Self.written { $0.string(text) }
    }

    private func bindings(_ listener: Listener) -> [UInt8] {
        Self.written { writer in
            for registration in registrations {
                for identifier in NetworkIdentifier.allCases
                where identifier.transport == registration.transport {
                    guard let address = Self.address(of: registration, identifier, listener) else {
                        continue
                    }
                    writer.bool(true)
                    writer.uint32(registration.program)
                    writer.uint32(registration.version)
                    writer.string(identifier.rawValue)
                    writer.string(address)
                    // r_owner: who may take it away again, which nobody may.
                    writer.string("")
                }
            }
            writer.bool(false)
        }
    }

    private static func address(
        of registration: Registration, _ identifier: NetworkIdentifier, _ listener: Listener
    ) -> String? {
        listener.addresses.first { $0.count == identifier.addressLength }
            .flatMap { universalAddress($0, port: registration.port) }
    }

    // MARK: Universal addresses

    // RFC 5665 section 5.2.3.3: "h1.h2.h3.h4.p1.p2"; section 5.2.3.4: "x1:x2:x3:x4:x5:x6:x7:x8.p1.p2", where the
    // address may be any text of RFC 4291 section 2.2. p1 is the higher octet of the port; all numbers behind a dot
    // are decimal.
    /// The text of an address and a port; nil when the address has neither 4 nor 16 octets.
    public static func universalAddress(_ address: [UInt8], port: UInt16) -> String? {
        let host: String
        switch address.count {
        case 4: host = address.map { String($0) }.joined(separator: ".")
        case 16: host = text(address)
        default: return nil
        }
        return "\(host).\(port >> 8).\(port & 0xff)"
    }

    // RFC 5952 section 4: lower case, no leading zeros; "::" is the longest run of zeros, the first of equal ones,
    // and not a single one.
    /// - Parameter address: 16 octets.
    private static func text(_ address: [UInt8]) -> String {
        let groups: [UInt16] = stride(from: 0, to: 16, by: 2).map {
            UInt16(address[$0]) << 8 | UInt16(address[$0 + 1])
        }
        func part(_ range: Range<Int>) -> String {
            groups[range].map { String($0, radix: 16) }.joined(separator: ":")
        }
        var longest = 0..<0
        var start = 0
        while start < groups.count {
            let end = groups[start...].firstIndex { $0 != 0 } ?? groups.count
            if end - start > max(1, longest.count) { longest = start..<end }
            start = end + 1
        }
        guard !longest.isEmpty else { return part(0..<groups.count) }
        return part(0..<longest.lowerBound) + "::" + part(longest.upperBound..<groups.count)
    }
}
