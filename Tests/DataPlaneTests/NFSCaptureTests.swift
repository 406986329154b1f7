import DataPlane
import StorageProtocols
import TestSupport
import Testing

private let datagramCaptures = ["nfs3-udp", "nfs3-udp-fragments", "nfs2-udp"]
private let captures = datagramCaptures + ["nfs3-tcp", "nfs2-tcp"]
private let masks: [UInt8] = [0x01, 0x80, 0xff]

/// What a client of NFS and the switch have said to each other once, read by everything that reads
/// such messages: as it was, cut, and damaged.
@Suite struct NFSCaptureTests {
    // MARK: As it was

    @Test(arguments: captures) func everyMessageIsReadToItsEnd(name: String) throws {
        let capture = try NFSCapture(name)
        var calls: [NFSProcedure: Int] = [:]
        var replies: [NFSProcedure: Int] = [:]
        for message in capture.messages {
            let (end, handles) = try read(message)
            #expect(end == message.octets.count)
            guard let procedure = message.procedure else { continue }
            if message.isCall {
                calls[procedure, default: 0] += 1
            } else {
                replies[procedure, default: 0] += 1
            }
            let copy = try NFSHandleRewriting.rewrite(
                message.octets, handles: handles, version: procedure.version, { Array($0) })
            #expect(copy == message.octets)
        }
        let wanted =
            name.hasPrefix("nfs3")
            ? NFSv3Procedure.allCases.map(NFSProcedure.v3)
            : NFSv2Procedure.allCases.map(NFSProcedure.v2)
        for procedure in wanted {
            #expect((calls[procedure] ?? 0) > 0, "no call of \(procedure.name)")
            #expect((replies[procedure] ?? 0) > 0, "no reply to \(procedure.name)")
        }
        let mounts = capture.messages.filter { $0.program == MountProtocol.program }
        // MNT, DUMP, UMNT, EXPORT.
        for number: UInt32 in [1, 2, 3, 5] {
            let count = mounts.filter { $0.number == number }.count
            #expect(count >= 2, "procedure \(number) of MOUNT")
        }
        #expect(capture.messages.contains { $0.program == Portmapper.program })
        #expect(capture.fragmented > 4 || name != "nfs3-udp-fragments")
    }

    /// Where a message ends, and the handles of NFS in it.
    private func read(
        _ message: NFSCapture.Message
    ) throws -> (end: Int, handles: [Range<Int>]) {
        try message.octets.withUnsafeBytes {
            (raw: UnsafeRawBufferPointer) throws -> (end: Int, handles: [Range<Int>]) in
            var reader = XDRReader(raw)
            if message.isCall {
                let header = try RPCCallHeader(&reader)
                let caller = try RPCSystemCredential(header.credential, in: raw)
                #expect(caller.machineName == "nfs-load")
                if let procedure = message.procedure {
                    let call = try NFSCall(procedure, raw, at: header.arguments)
                    return (call.end, call.handles)
                }
                if message.program == MountProtocol.program {
                    _ = try MountCall(header, &reader)
                } else {
                    // GETPORT.
                    try reader.skip(16)
                }
                return (reader.position, [])
            }
            let header = try RPCReplyHeader(&reader)
            #expect(header.refusal == nil)
            if let procedure = message.procedure {
                let results = try NFSResults(procedure, raw, at: header.results)
                return (results.end, results.handles)
            }
            try readOther(message, &reader)
            return (reader.position, [])
        }
    }

    /// Results of MOUNT and of the portmapper.
    private func readOther(
        _ message: NFSCapture.Message, _ reader: inout XDRReader
    ) throws {
        guard message.program == MountProtocol.program else { return try reader.skip(4) }
        switch message.number {
        case 1:
            let version = try #require(MountProtocol.Version(rawValue: message.version))
            let result = try MountResult(&reader, version: version)
            guard case .mounted = result else {
                Issue.record("MNT: \(result)")
                return
            }
        case 2: _ = try MountEntry.list(&reader)
        case 5: _ = try MountExport.list(&reader)
        default: break
        }
    }

    // MARK: Damaged

    @Test(arguments: captures) func damagedMessagesAreReadWithinTheirBounds(name: String) throws {
        let capture = try NFSCapture(name)
        try #require(!capture.messages.isEmpty)
        for message in capture.messages {
            var octets = message.octets
            for length in octets.indices {
                let finding = octets.withUnsafeBytes {
                    self.finding(
                        in: UnsafeRawBufferPointer(rebasing: $0[..<length]), message.procedure)
                }
                if let finding {
                    Issue.record("\(finding): cut to \(length): \(octets)")
                    return
                }
            }
            for index in octets.indices {
                for mask in masks {
                    octets[index] ^= mask
                    let finding = octets.withUnsafeBytes {
                        self.finding(in: $0, message.procedure)
                    }
                    if let finding {
                        Issue.record("\(finding): octet \(index) changed: \(octets)")
                        return
                    }
                    octets[index] ^= mask
                }
            }
        }
    }

    /// Gives octets to everything that reads messages. Nil: what was found lies within them.
    private func finding(
        in raw: UnsafeRawBufferPointer, _ procedure: NFSProcedure?
    ) -> String? {
        if let start = raw.baseAddress,
            case .call(let call) = DatagramCall.parse(start, length: raw.count),
            call.handleOffset + call.handleLength > raw.count
        {
            return "the dataplane's handle"
        }
        var reader = XDRReader(raw)
        if let header = try? RPCCallHeader(&reader) {
            _ = try? RPCSystemCredential(header.credential, in: raw)
            _ = try? MountCall(header, &reader)
            if header.program == Portmapper.program {
                let listener = Portmapper.Listener(
                    transport: .udp, addresses: [[10, 10, 0, 100]])
                _ = Portmapper([]).answer(Array(raw), at: listener)
            }
            guard
                let procedure = NFSProcedure(version: header.version, number: header.procedure),
                let call = try? NFSCall(procedure, raw, at: header.arguments)
            else { return nil }
            let ranges = call.handles + call.names + [call.data].compactMap { $0 }
            return check(ranges, call.end, raw.count)
        }
        reader = XDRReader(raw)
        guard let header = try? RPCReplyHeader(&reader) else { return nil }
        let results = reader
        for version in MountProtocol.Version.allCases {
            reader = results
            _ = try? MountResult(&reader, version: version)
        }
        reader = results
        _ = try? MountExport.list(&reader)
        reader = results
        _ = try? MountEntry.list(&reader)
        guard let procedure, let found = try? NFSResults(procedure, raw, at: header.results) else {
            return nil
        }
        let ranges = found.handles + found.fileSystems + [found.data].compactMap { $0 }
        return check(ranges, found.end, raw.count)
    }

    private func check(_ ranges: [Range<Int>], _ end: Int, _ count: Int) -> String? {
        guard end <= count else { return "the end is behind the message" }
        return ranges.contains { $0.upperBound > end } ? "a range is behind the end" : nil
    }

    // MARK: Through the dataplane

    /// The frames go through a switch that knows the client and its handles, and so do replies to
    /// them; then all of them damaged. Nothing of them stays.
    @Test(arguments: datagramCaptures) func damagedFramesLeaveNothing(name: String) throws {
        let capture = try NFSCapture(name)
        let fixture = try DatagramFixture()
        let calls = try #require(callFrames(capture))
        try serve(capture, calls, at: fixture)
        var replies: [[UInt8]] = []
        for (index, message) in capture.messages.enumerated()
        where !message.isCall && message.procedure != nil {
            var reply = fixture.reply(message.octets)
            reply.identification = UInt32(index)
            replies += reply.fragments(of: 1_480)
        }

        var passed = fixture.network.send(calls, on: 1)
        #expect((passed[3] ?? []).count > 20)
        passed = fixture.network.send(replies, on: 3)
        #expect((passed[1] ?? []).count > 20)

        for (port, frames) in [(PortNumber(1), calls), (3, replies)] {
            for frame in frames { _ = fixture.network.send(damaged(frame), on: port) }
        }
        fixture.network.advance(seconds: 3)
        let status = fixture.status
        #expect(status.fragments == 0 && status.waitingFragments == 0 && status.waitingOctets == 0)
        #expect(fixture.bindings.count == 1)
        // It still does what it did.
        passed = fixture.network.send(calls, on: 1)
        #expect((passed[3] ?? []).count > 20)
    }

    /// Frames to the virtual address, up to the first datagram to another port.
    private func callFrames(_ capture: NFSCapture) -> [[UInt8]]? {
        let first = capture.datagramFrames.lazy.compactMap(CapturedPacket.init).first {
            $0.flow?.destinationPort == 2_049
        }
        guard let first else { return nil }
        return capture.datagramFrames.filter {
            guard let packet = CapturedPacket($0) else { return false }
            return packet.destination == first.destination && packet.source == first.source
                && (packet.isFragment || packet.flow?.destinationPort == 2_049)
        }
    }

    /// Makes the capture's virtual address and client the switch's, and its handles known there.
    private func serve(
        _ capture: NFSCapture, _ calls: [[UInt8]], at fixture: DatagramFixture
    ) throws {
        let frame = try #require(calls.first)
        let packet = try #require(CapturedPacket(frame))
        let mac = frame[..<6].reduce(0) { $0 << 8 | UInt64($1) }
        var service = DatagramFixture.description
        service.virtualAddresses = DatagramAddresses(ipv4: IPAddress(v4: packet.destination))
        service.storageAddresses = DatagramAddresses(ipv4: fixture.storage)
        service.clientMAC = MACAddress(rawValue: mac)
        var handles: Set<[UInt8]> = []
        for message in capture.messages where message.isCall {
            let (_, ranges) = try read(message)
            handles.formUnion(ranges.map { Array(message.octets[$0]) })
        }
        // Of handles that the switch looks up.
        let mapped: DatagramResourceID = 255
        // Those of version 3 name their export themselves: magic, number, the server's handle.
        let prefixed = handles.first { $0.count > 8 && $0[3] & 0xf == 0 && $0[0] == 0xd5 }
        if let prefixed {
            service.handleMagic = prefixed[..<4].reduce(0) { $0 << 8 | UInt32($1) }
            // The number of an export is 255 at most.
            try fixture.apply(.setResource(prefixed[7], server: fixture.server(0)))
        }
        try fixture.apply(
            .setService(DatagramFixture.service, service),
            .setResource(mapped, server: fixture.server(0)))
        for handle in handles.sorted(by: { $0.lexicographicallyPrecedes($1) })
        where prefixed == nil && !handle.isEmpty {
            try fixture.apply(.installHandle(handle, resource: mapped))
        }
        var clients: Set<DatagramEndpoint> = []
        for flow in calls.compactMap({ CapturedPacket($0)?.flow }) {
            clients.insert(
                DatagramEndpoint(
                    address: IPAddress(v4: flow.source),
                    port: UInt16(truncatingIfNeeded: flow.sourcePort)))
        }
        #expect(clients.count == 1)
        let client = try #require(clients.first)
        try fixture.apply(
            .bind(
                DatagramFixture.service, client: client, localPort: fixture.localPort(0),
                resources: .all))
    }

    /// The frame cut at each length, and with each octet changed; behind the first 256 octets, where
    /// nobody looks, at some.
    private func damaged(_ frame: [UInt8]) -> [[UInt8]] {
        let places = frame.indices.filter { $0 < 256 || $0 % 97 == 0 }
        var result = places.map { Array(frame[..<$0]) }
        for place in places {
            for mask in masks {
                var changed = frame
                changed[place] ^= mask
                result.append(changed)
            }
        }
        return result
    }
}
