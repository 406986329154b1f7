extension PacketHeaders {
    /// Parses `frame` into `headers` (all fields are set). Returns why the frame is bad, else nil.
    /// (Contract stub: the real parser replaces this file.)
    static func parse(_ frame: Frame, into headers: inout PacketHeaders) -> DropReason? {
        headers = PacketHeaders()
        return nil
    }
}
