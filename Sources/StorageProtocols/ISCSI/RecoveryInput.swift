/// A request that was open when its server was lost.
public struct ISCSIOpenTask: Sendable {
    public var tag: UInt32
    /// The command and the Data-Outs that followed it, as the client sent them: whole PDUs.
    public var octets: [UInt8]
    /// False: some octets are missing, so that it cannot be sent again.
    public var isWhole: Bool
    /// Newest headers of Data-In and R2T that were passed to the client.
    public var dataIn: [UInt8]?
    public var readyToTransfer: [UInt8]?

    public init(
        tag: UInt32, octets: [UInt8], isWhole: Bool, dataIn: [UInt8]?, readyToTransfer: [UInt8]?
    ) {
        self.tag = tag
        self.octets = octets
        self.isWhole = isWhole
        self.dataIn = dataIn
        self.readyToTransfer = readyToTransfer
    }
}

/// A PDU that was on its way to the client when its server was lost.
public struct ISCSIUnfinishedReply: Sendable {
    /// As the client gets it.
    public var header: [UInt8]
    /// Its data segment when that was kept; that of a Data-In is read again.
    public var data: [UInt8]?
    /// The task that it ends, when it ends one.
    public var ended: ISCSIOpenTask?
    /// Octets of it that the client has.
    public var delivered: Int

    public init(header: [UInt8], data: [UInt8]?, ended: ISCSIOpenTask?, delivered: Int = 0) {
        self.header = header
        self.data = data
        self.ended = ended
        self.delivered = delivered
    }
}

/// Where the client's numbering stands.
public struct ISCSIClientPosition: Sendable {
    /// CmdSN that its next command has.
    public var nextCommand: UInt32
    /// StatSN that it expects next.
    public var nextStatus: UInt32
    /// Newest ExpCmdSN and MaxCmdSN that it was told.
    public var expectedCommand: UInt32
    public var maximumCommand: UInt32
    public init(
        nextCommand: UInt32, nextStatus: UInt32, expectedCommand: UInt32, maximumCommand: UInt32
    ) {
        self.nextCommand = nextCommand
        self.nextStatus = nextStatus
        self.expectedCommand = expectedCommand
        self.maximumCommand = maximumCommand
    }
}
