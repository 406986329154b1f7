/// What became of a packet that a splice took.
enum SpliceDisposition {
    case forwarded(PortNumber)
    case toCPU
    case toNetwork(PortNumber)
    case held
    case dropped(DropReason)
}

/// All splices of a switch: records in raw memory, indexed by `SpliceID`.
struct Splicer: ~Copyable {
    let capacity: Int

    init(capacity: Int, heldBytesMaximum: Int = 256 << 20) {
        self.capacity = capacity
    }

    /// Nil when `apply` will do the command.
    func check(_ command: SpliceCommand) -> BatchError.Reason? { nil }

    /// Does a checked command.
    mutating func apply<Output: FrameOutput & ~Copyable>(
        _ command: SpliceCommand, flows: inout FlowTable, output: inout Output, now: UInt64
    ) -> CommandResult { .done }

    /// A packet of splice `id` that came from the end (`origin` network) or the CPU port of `side`.
    mutating func process<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, side: SpliceSide, origin: FlowKey.Origin, frame: Frame,
        headers: inout PacketHeaders, ingress: PortNumber, output: inout Output, now: UInt64
    ) -> SpliceDisposition { .dropped(.spliceUnknown) }

    /// An ICMP error about a packet that was sent to the end of `side`: translated for the other end.
    /// False when it is not for this splice's fast path and must take the normal way.
    mutating func processICMPError<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, side: SpliceSide, frame: Frame, headers: PacketHeaders,
        output: inout Output, now: UInt64
    ) -> Bool { false }

    /// A later fragment of a datagram whose first fragment went to this splice.
    mutating func processFragment<Output: FrameOutput & ~Copyable>(
        _ id: SpliceID, side: SpliceSide, frame: Frame, headers: PacketHeaders,
        output: inout Output, now: UInt64
    ) -> SpliceDisposition { .dropped(.spliceUnknown) }

    /// Time-outs; called every few milliseconds by the worker.
    mutating func tick<Output: FrameOutput & ~Copyable>(
        flows: inout FlowTable, output: inout Output, now: UInt64
    ) {}
}
