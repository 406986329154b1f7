/// What the fast path reads of an RPC call (RFC 5531 section 9) of NFS version 2 (RFC 1094) or 3 (RFC 1813).
package struct DatagramCall: Equatable {
    package var xid: UInt32
    package var version: UInt32
    package var procedure: UInt32
    /// First octet of the file handle, counted from the message's begin, and how many it has.
    package var handleOffset: Int
    package var handleLength: Int

    package init(
        xid: UInt32, version: UInt32, procedure: UInt32, handleOffset: Int, handleLength: Int
    ) {
        self.xid = xid
        self.version = version
        self.procedure = procedure
        self.handleOffset = handleOffset
        self.handleLength = handleLength
    }

    package enum Outcome: Equatable {
        case call(DatagramCall)
        case miss(DatagramMiss)
    }

    /// What the octets that are there say.
    package enum Step: Equatable {
        case call(DatagramCall)
        case miss(DatagramMiss)
        /// So many octets, counted from the message's begin, must be there to say more.
        case needs(Int)
    }

    /// Procedures that are taken, by version of NFS. Bit n: procedure n. The first argument of each is a handle.
    package struct Procedures: Sendable {
        package let version2: UInt32
        package let version3: UInt32

        /// Those that may be done twice and whose reply has no handle.
        /// Version 2: GETATTR 1, READLINK 5, READ 6, WRITE 8, READDIR 16, STATFS 17 (RFC 1094 section 2.2).
        /// Version 3: GETATTR 1, ACCESS 4, READLINK 5, READ 6, WRITE 7, READDIR 16, FSSTAT 18, FSINFO 19,
        /// PATHCONF 20, COMMIT 21 (RFC 1813 section 3.3).
        @inline(__always)
        package static var datagrams: Procedures {
            Procedures(version2: 0x0003_0162, version3: 0x003d_00f2)
        }
    }

    private static let program: UInt32 = 100_003
    /// xid, message type, RPC version, program, version, procedure; flavor and length of the credential.
    private static let fixedLength = 32
    /// RFC 5531 section 8.2: "opaque body<400>".
    private static let authenticationMaximum: UInt32 = 400
    /// RFC 1094 section 2.3.3: FHSIZE.
    private static let version2HandleLength = 32
    /// RFC 1813 section 2.4: NFS3_FHSIZE.
    private static let version3HandleMaximum: UInt32 = 64

    /// Reads the `length` octets that are there, the whole message or its begin. Takes any input; reads nothing
    /// behind them. A call has all octets of its handle.
    @inline(__always)
    package static func parse(_ message: UnsafeRawPointer, length: Int) -> Outcome {
        switch step(message, length: length, procedures: .datagrams) {
        case .call(let call): return .call(call)
        case .miss(let miss): return .miss(miss)
        case .needs: return .miss(.truncated)
        }
    }

    /// The same of a message that may go on behind the `length` octets. Asked again with as many as it needs, it
    /// comes to an end after four times.
    @inline(__always)
    package static func step(
        _ message: UnsafeRawPointer, length: Int, procedures taken: Procedures
    ) -> Step {
        guard length >= fixedLength else { return .needs(fixedLength) }
        // RFC 5531 section 9: CALL is 0; "rpcvers [...] MUST be equal to two (2)".
        guard message.load32(4) == 0, message.load32(8) == 2 else { return .miss(.malformed) }
        let version = message.load32(16)
        guard message.load32(12) == program, version == 2 || version == 3 else {
            return .miss(.program)
        }
        let procedure = message.load32(20)
        let procedures = version == 2 ? taken.version2 : taken.version3
        guard procedure < 32, procedures >> procedure & 1 != 0 else { return .miss(.procedure) }
        // AUTH_NONE 0, AUTH_SYS 1.
        guard message.load32(24) <= 1 else { return .miss(.credential) }
        guard let credential = paddedLength(message.load32(28)) else { return .miss(.malformed) }
        // Flavor and length of the verifier.
        let verifierOffset = fixedLength &+ credential
        guard length >= verifierOffset &+ 8 else { return .needs(verifierOffset &+ 8) }
        guard let verifier = paddedLength(message.load32(verifierOffset &+ 4)) else {
            return .miss(.malformed)
        }
        var handleOffset = verifierOffset &+ 8 &+ verifier
        var handleLength = version2HandleLength
        if version == 3 {
            guard length >= handleOffset &+ 4 else { return .needs(handleOffset &+ 4) }
            let told = message.load32(handleOffset)
            guard told >= 1, told <= version3HandleMaximum else { return .miss(.malformed) }
            handleLength = Int(told)
            handleOffset &+= 4
        }
        guard length >= handleOffset &+ handleLength else {
            return .needs(handleOffset &+ handleLength)
        }
        return .call(
            DatagramCall(
                xid: message.load32(0), version: version, procedure: procedure,
                handleOffset: handleOffset, handleLength: handleLength))
    }

    /// Where the handle is that a whole call begins with; nil: it is none of these procedures.
    package static func handle(
        of call: [UInt8], procedures: Procedures = .datagrams
    ) -> Range<Int>? {
        call.withUnsafeBytes { octets -> Range<Int>? in
            guard let start = octets.baseAddress,
                case .call(let found) = step(
                    start, length: octets.count, procedures: procedures)
            else { return nil }
            return found.handleOffset..<(found.handleOffset + found.handleLength)
        }
    }

    /// Octets that the body of a credential or verifier takes; nil when it is too long. RFC 4506 section 4.10: opaque
    /// data is filled up to a multiple of four octets.
    @inline(__always)
    private static func paddedLength(_ told: UInt32) -> Int? {
        told <= authenticationMaximum ? (Int(told) &+ 3) & ~3 : nil
    }
}
