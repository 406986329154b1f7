import StorageProtocols

/// A call as it went to a server, read again to be judged: what is asked beside it, and what can be answered in a
/// server's place.
struct NFSRetryRequest: Sendable {
    /// What is done again when the call is.
    enum Kind: Sendable { case create, remove, rename, link, setAttributes }

    /// What LOOKUP has found.
    enum Found: Equatable, Sendable {
        case object(Object)
        case nothing
        /// Another error, or no answer that can be read.
        case unclear
    }

    struct Object: Equatable, Sendable {
        var handle: [UInt8]
        var attributes: NFSFileAttributes?
    }

    /// What a call makes.
    struct Made: Equatable, Sendable {
        var type: NFSv3FileType
        var size: UInt64?
        /// Major and minor number.
        var device: [UInt32]?
        /// Of a symbolic link.
        var text: [UInt8]?
    }

    let octets: [UInt8]
    private let header: RPCCallHeader
    private let call: NFSCall
    let kind: Kind

    /// Nil: it can be sent again as it is.
    init?(_ octets: [UInt8], _ procedure: NFSProcedure) {
        let parsed = octets.read { (reader: inout XDRReader) throws(RPCError) in
            try RPCCallHeader(&reader)
        }
        guard case .success(let header) = parsed,
            let call = octets.withUnsafeBytes({
                try? NFSCall(procedure, $0, at: header.arguments)
            })
        else { return nil }
        self.octets = octets
        self.header = header
        self.call = call
        guard let kind = Self.kind(call, octets) else { return nil }
        self.kind = kind
    }

    private static func kind(_ call: NFSCall, _ octets: [UInt8]) -> Kind? {
        switch call.procedure {
        case .v3(.create):
            // createmode3: UNCHECKED takes a file that is there.
            octets.field32(call.names[0].paddedEnd) == 0 ? nil : .create
        case .v3(.mkdir), .v3(.symlink), .v3(.mknod), .v2(.create), .v2(.mkdir), .v2(.symlink):
            .create
        case .v3(.remove), .v3(.rmdir), .v2(.remove), .v2(.rmdir): .remove
        case .v3(.rename), .v2(.rename): .rename
        case .v3(.link), .v2(.link): .link
        case .v3(.setattr): call.isGuarded ? .setAttributes : nil
        default: nil
        }
    }

    private var version: NFSVersion { call.procedure.version }

    /// The file of SETATTR or LINK.
    var file: [UInt8] { Array(octets[call.handles[0]]) }

    var isSymbolicLink: Bool {
        call.procedure == .v3(.symlink) || call.procedure == .v2(.symlink)
    }

    // MARK: Calls beside it

    /// In the same caller's name.
    private func sibling(_ procedure: NFSProcedure, _ arguments: XDRWriter) -> [UInt8] {
        var result = Array(octets[..<header.arguments])
        result.set(0, at: 0)
        result.set(procedure.number, at: 20)
        return result + arguments.bytes
    }

    private func put(_ handle: [UInt8], into writer: inout XDRWriter) {
        if version == .v3 { writer.opaque(handle) } else { writer.fixedOpaque(handle) }
    }

    /// - Parameter index: 1 is the new name of RENAME.
    func lookUp(_ index: Int) -> [UInt8] {
        let directory = kind == .link ? call.handles[1] : call.handles[index]
        var writer = XDRWriter()
        put(Array(octets[directory]), into: &writer)
        writer.opaque(Array(octets[call.names[index]]))
        return sibling(version == .v3 ? .v3(.lookup) : .v2(.lookup), writer)
    }

    func attributes(of handle: [UInt8]) -> [UInt8] {
        var writer = XDRWriter()
        put(handle, into: &writer)
        return sibling(version == .v3 ? .v3(.getattr) : .v2(.getattr), writer)
    }

    func text(of handle: [UInt8]) -> [UInt8] {
        var writer = XDRWriter()
        put(handle, into: &writer)
        return sibling(version == .v3 ? .v3(.readlink) : .v2(.readlink), writer)
    }

    // MARK: Their answers

    /// Reads results of a call that was served; nil: it was not, or they cannot be read.
    private func results<Value>(
        _ reply: [UInt8], _ body: (inout XDRReader) throws(XDRError) -> Value
    ) -> Value? {
        reply.withUnsafeBytes { raw -> Value? in
            var reader = XDRReader(raw)
            guard let header = try? RPCReplyHeader(&reader), header.refusal == nil else {
                return nil
            }
            return try? body(&reader)
        }
    }

    /// Of the call itself, or any other.
    func status(_ reply: [UInt8]) -> UInt32? {
        results(reply) { (reader: inout XDRReader) throws(XDRError) in try reader.uint32() }
    }

    func found(_ reply: [UInt8]) -> Found {
        let version = version
        let found = results(reply) { (reader: inout XDRReader) throws(XDRError) -> Found in
            switch try reader.uint32() {
            case NFSv3Status.ok.rawValue: break
            case NFSv3Status.noEntry.rawValue: return .nothing
            default: return .unclear
            }
            let range =
                version == .v3
                ? try reader.opaque(maximum: version.handleLength)
                : try reader.fixedOpaque(version.handleLength)
            var object = Object(handle: try reader.bytes(range))
            let hasAttributes = version == .v3 ? try reader.bool() : true
            if hasAttributes { object.attributes = try NFSFileAttributes(version, &reader) }
            return .object(object)
        }
        return found ?? .unclear
    }

    /// What GETATTR says; nil: an error.
    func attributes(_ reply: [UInt8]) -> NFSFileAttributes? {
        let version = version
        return results(reply) { (reader: inout XDRReader) throws(XDRError) in
            guard try reader.uint32() == NFSv3Status.ok.rawValue else { throw .badValue }
            return try NFSFileAttributes(version, &reader)
        }
    }

    /// What READLINK says; nil: an error.
    func text(_ reply: [UInt8]) -> [UInt8]? {
        let version = version
        return results(reply) { (reader: inout XDRReader) throws(XDRError) -> [UInt8] in
            guard try reader.uint32() == NFSv3Status.ok.rawValue else { throw .badValue }
            if version == .v3, try reader.bool() { _ = try NFSv3Attributes(&reader) }
            let range = try reader.opaque(maximum: reader.remaining)
            return try reader.bytes(range)
        }
    }

    // MARK: What it makes

    /// What a call of kind `create` makes; nil: its arguments cannot be read.
    var made: Made? {
        let call = call
        let parsed = octets.read { (reader: inout XDRReader) throws(XDRError) -> Made? in
            try reader.skip(call.names[0].paddedEnd)
            switch call.procedure {
            case .v3(.create):
                _ = try reader.uint32()
                // It has a verifier, no attributes.
                guard !call.isExclusive else { return Made(type: .regular, size: 0) }
                let set = try NFSSettableAttributes(&reader)
                return Made(type: .regular, size: set.size ?? 0)
            case .v3(.mkdir), .v2(.mkdir): return Made(type: .directory)
            case .v3(.symlink):
                _ = try NFSSettableAttributes(&reader)
                let text = try reader.opaque(maximum: reader.remaining)
                return Made(type: .symbolicLink, text: try reader.bytes(text))
            case .v3(.mknod):
                guard let type = NFSv3FileType(rawValue: try reader.uint32()) else { return nil }
                guard type == .blockDevice || type == .characterDevice else {
                    return Made(type: type)
                }
                _ = try NFSSettableAttributes(&reader)
                return Made(type: type, device: [try reader.uint32(), try reader.uint32()])
            case .v2(.create):
                // sattr: mode, owner, group, size, of which all ones stand for none (RFC 1094 section 2.3.6).
                try reader.skip(12)
                let size = try reader.uint32()
                return Made(type: .regular, size: size == .max ? 0 : UInt64(size))
            case .v2(.symlink):
                let text = try reader.opaque(maximum: reader.remaining)
                return Made(type: .symbolicLink, text: try reader.bytes(text))
            default: return nil
            }
        }
        guard case .success(let made) = parsed else { return nil }
        return made
    }

    /// SETATTR: the file has all that the call sets.
    func isSet(_ attributes: NFSFileAttributes) -> Bool {
        let start = call.handles[0].paddedEnd
        let set = octets.read { (reader: inout XDRReader) throws(XDRError) in
            try reader.skip(start)
            return try NFSSettableAttributes(&reader)
        }
        guard case .success(let wanted) = set, case .v3(let present) = attributes else {
            return false
        }
        return wanted.agrees(with: present)
    }

    // MARK: Replies

    private func reply(_ results: [UInt8]) -> [UInt8] {
        RPCMessage.reply(xid: 0, results: results)
    }

    /// NOENT.
    var missing: [UInt8] {
        switch call.procedure {
        case .v2(let procedure): reply(NFSv2Replies.failure(procedure, .noEntry))
        case .v3(let procedure): reply(NFSv3Replies.failure(procedure, .noEntry))
        }
    }

    /// The call has succeeded. In version 3, what is not known is left out, as the RFC allows (post_op_fh3,
    /// post_op_attr, wcc_data).
    /// - Parameters:
    ///   - object: what kind `create` has made.
    ///   - attributes: of the file of LINK or SETATTR, now.
    func success(
        _ object: Object? = nil, attributes: NFSFileAttributes? = nil
    ) -> [UInt8] {
        var writer = XDRWriter()
        guard version == .v3 else {
            if kind == .create, !isSymbolicLink, let object,
                case .v2(let attributes) = object.attributes
            {
                return reply(NFSv2Replies.lookup(object.handle, attributes))
            }
            writer.uint32(NFSv2Status.ok.rawValue)
            return reply(writer.bytes)
        }
        writer.uint32(NFSv3Status.ok.rawValue)
        switch kind {
        case .create:
            writer.bool(object != nil)
            if let object { writer.opaque(object.handle) }
            Self.put(object?.attributes, into: &writer)
            Self.put(wcc: nil, into: &writer)
        case .remove: Self.put(wcc: nil, into: &writer)
        case .rename:
            Self.put(wcc: nil, into: &writer)
            Self.put(wcc: nil, into: &writer)
        case .link:
            Self.put(attributes, into: &writer)
            Self.put(wcc: nil, into: &writer)
        case .setAttributes: Self.put(wcc: attributes, into: &writer)
        }
        return reply(writer.bytes)
    }

    /// post_op_attr.
    private static func put(_ attributes: NFSFileAttributes?, into writer: inout XDRWriter) {
        writer.bool(attributes != nil)
        attributes?.encode(into: &writer)
    }

    /// wcc_data, of which nothing is known from before.
    private static func put(wcc attributes: NFSFileAttributes?, into writer: inout XDRWriter) {
        writer.bool(false)
        put(attributes, into: &writer)
    }
}

extension Range<Int> {
    /// Where the next item begins, behind an opaque's padding.
    var paddedEnd: Int { lowerBound + (count + 3) & ~3 }
}
