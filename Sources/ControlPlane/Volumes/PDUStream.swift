import StorageProtocols

/// Cuts a stream of iSCSI PDUs as it comes: what is long is given on in the pieces in which it is there.
package final class PDUStream {
    private var header: [UInt8] = []
    /// Octets of the present PDU that are to come: additional headers, data, padding.
    private var additional = 0
    private var data = 0
    private var padding = 0
    /// Octets of its data that have come.
    private var offset = 0

    package init() {}

    /// Begins anew: another stream.
    package func reset() { (header, additional, data, padding, offset) = ([], 0, 0, 0, 0) }

    /// - Parameters:
    ///   - begin: gets the basic header segment, 48 octets.
    ///   - part: gets the header, and octets of the data segment with their offset in it. No padding.
    ///   - end: gets the header when all of the PDU has come.
    package func take(
        _ bytes: UnsafeRawBufferPointer, begin: ([UInt8]) -> Void,
        part: ([UInt8], Int, UnsafeRawBufferPointer) -> Void, end: ([UInt8]) -> Void
    ) {
        var place = 0
        while place < bytes.count {
            let left = bytes.count - place
            if header.count < ISCSIPDU.headerLength {
                let count = min(ISCSIPDU.headerLength - header.count, left)
                header += bytes[place..<place + count]
                place += count
                guard header.count == ISCSIPDU.headerLength else { return }
                measure()
                begin(header)
            } else if additional > 0 {
                let count = min(additional, left)
                additional -= count
                place += count
            } else if data > 0 {
                let count = min(data, left)
                part(header, offset, UnsafeRawBufferPointer(rebasing: bytes[place..<place + count]))
                data -= count
                offset += count
                place += count
            } else {
                let count = min(padding, left)
                padding -= count
                place += count
            }
            if header.count == ISCSIPDU.headerLength, additional + data + padding == 0 {
                let whole = header
                reset()
                end(whole)
            }
        }
    }

    /// RFC 7143 section 11.2.1: lengths, and padding to four octets.
    private func measure() {
        additional = Int(header[4]) * 4
        data = Int(header[5]) << 16 | Int(header[6]) << 8 | Int(header[7])
        padding = (4 - data & 3) & 3
    }
}
