// NSM, the network status monitor: who has restarted, and so has lost its locks (X/Open "Protocols for Interworking:
// XNFS", chapter 11).

/// Numbers of the program.
public enum NSMProtocol {
    public static let program: UInt32 = 100_024
    public static let version: UInt32 = 1
    /// Octets of a name: SM_MAXSTRLEN.
    public static let nameMaximum = 1_024
}

/// A call of NSM. Names are octets.
public enum NSMCall: Equatable, Sendable {
    case null
    /// SM_STAT: could a host be watched?
    case status(name: [UInt8])
    /// SM_MON: watch it.
    case monitor
    case unmonitor
    case unmonitorAll
    /// SM_SIMU_CRASH: as if the monitor's own host had restarted.
    case simulateCrash
    /// SM_NOTIFY: a host has restarted. Its state is another number each time.
    case notify(name: [UInt8], state: UInt32)

    /// - Parameter reader: where the arguments begin. Those of MON, UNMON and UNMON_ALL are not looked at.
    /// - Throws: what the call is to be answered with.
    public init(_ header: RPCCallHeader, _ reader: inout XDRReader) throws(RPCRefusal) {
        guard header.program == NSMProtocol.program else { throw .programUnavailable }
        guard header.version == NSMProtocol.version else {
            throw .programMismatch(low: NSMProtocol.version, high: NSMProtocol.version)
        }
        do throws(XDRError) {
            switch header.procedure {
            case 0: self = .null
            case 1: self = .status(name: try Self.name(&reader))
            case 2: self = .monitor
            case 3: self = .unmonitor
            case 4: self = .unmonitorAll
            case 5: self = .simulateCrash
            case 6:
                let name = try Self.name(&reader)
                self = .notify(name: name, state: try reader.uint32())
            default: self = .null
            }
        } catch {
            throw .garbageArguments
        }
        if header.procedure > 6 { throw .procedureUnavailable }
    }

    private static func name(_ reader: inout XDRReader) throws(XDRError) -> [UInt8] {
        let range = try reader.opaque(maximum: NSMProtocol.nameMaximum)
        return try reader.bytes(range)
    }

    /// XDR: results for who is not served. Nobody is watched for others: MON has STAT_FAIL, STAT has STAT_SUCC.
    /// - Parameter state: our own.
    public func results(state: UInt32) -> [UInt8] {
        var writer = XDRWriter()
        switch self {
        case .status:
            writer.uint32(0)
            writer.uint32(state)
        case .monitor:
            writer.uint32(1)
            writer.uint32(state)
        case .unmonitor, .unmonitorAll: writer.uint32(state)
        case .null, .simulateCrash, .notify: break
        }
        return writer.bytes
    }
}
