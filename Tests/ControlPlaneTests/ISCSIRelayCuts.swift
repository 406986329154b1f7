import StorageProtocols

/// Places in streams of PDUs at which a server is cut off. Which octet of a header is the last one that came
/// through matters, and whether a data segment has begun, has ended or is one short; octets in the middle of
/// data are all alike, so of them only some are taken.
extension ISCSIRelayHarness.Streams {
    /// Every octet of every header and both of its ends; of each data segment the first, the last and every
    /// `stride`-th octet, from another one on with every `seed`. Until after the last octet.
    static func places(_ stream: [UInt8], stride step: Int, seed: UInt64) -> [Int] {
        var places: Set<Int> = [0]
        var start = 0
        while stream.count - start >= ISCSIPDU.headerLength {
            let data = start + ISCSIPDU.headerLength
            let length =
                Int(stream[start + 4]) * 4
                + (Int(stream[start + 5]) << 16 | Int(stream[start + 6]) << 8
                    | Int(stream[start + 7]) + 3) & ~3
            let end = min(data + length, stream.count)
            places.formUnion(start...data)
            if end > data {
                places.formUnion([data + 1, end - 1, end])
                let first = data + 1 + Int(truncatingIfNeeded: seed &* 5 % UInt64(step))
                places.formUnion(stride(from: first, to: end, by: step))
            }
            start = end
        }
        return places.sorted()
    }
}

extension ISCSIRelayHarness.Options {
    enum Stream: CaseIterable { case fromClient, toServer, fromServer }

    /// Cuts of what passes with these options when nothing is cut; a cut run is the same up to its cut.
    func cuts(_ wanted: Set<Stream> = Set(Stream.allCases), stride: Int = 13) -> [ISCSIRelayHarness
        .Cut]
    {
        let streams = ISCSIRelayHarness(self).runWhole()
        func places(_ stream: [UInt8]) -> [Int] {
            ISCSIRelayHarness.Streams.places(stream, stride: stride, seed: seed)
        }
        var cuts: [ISCSIRelayHarness.Cut] = []
        if wanted.contains(.fromClient) {
            cuts += places(streams.fromClient).map { .fromClient($0) }
        }
        if wanted.contains(.fromServer) {
            cuts += places(streams.fromServer).map { .fromServer($0) }
        }
        // A spliced session has no stream of ours to the server.
        if wanted.contains(.toServer), !isSpliced {
            cuts += places(streams.toServer).map { .toServer($0) }
        }
        return cuts
    }
}
