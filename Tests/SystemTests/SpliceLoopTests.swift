import Foundation
import Testing

/// A session goes out of the dataplane and into it again and again under load; no octet may be lost.
private func spliceUnderLoad(_ resource: String, pairs wanted: Int) async throws {
    let lab = try Laboratory.here()
    let device = try await lab.startBlockDevice(resource)
    let fio = try lab.startFio(socket: device.socket, seconds: 10)
    let isThere = try await eventually(within: 5) {
        try await lab.sessions(of: resource).contains { $0.state == "spliced" }
    }
    try #require(isThere, "the session is not spliced: \(device.program.output)")
    let id = try #require(await lab.sessions(of: resource).first).id
    var pairs = 0
    while fio.isRunning {
        let isOut = try await lab.change(id, "unsplice")
        let isIn = try await lab.change(id, "splice")
        if isOut, isIn { pairs += 1 }
    }
    let result = try await lab.fioResult(fio, within: 40)
    #expect(result.error == 0)
    #expect(result.readKiB > 1_000 && result.writtenKiB > 1_000, "\(result)")
    #expect(pairs > wanted)
    let session = try #require(await lab.sessions(of: resource).first)
    #expect(session.id == id, "the client had to log in again")
    #expect(session.unsplices > wanted && session.splices > wanted, "\(session)")
    device.program.signal(SIGTERM)
    _ = try await device.program.result(within: 10)
    #expect(!device.program.output.contains("rror"), "\(device.program.output)")
}

extension SystemTests {
    @Suite("Splice loop", .serialized, .lab())
    struct SpliceLoopTests {
        @Test func everyOctetIsRight() async throws { try await spliceUnderLoad("r1", pairs: 30) }
    }

    /// The same over links that lose, duplicate and reorder packets.
    @Suite(
        "Splice loop with faults", .serialized,
        .lab(configuration: withFaults("drop: 0.003, duplicate: 0.003, reorder: 0.003, seed: 7")))
    struct FaultyLinkTests {
        @Test func theFaultsAreConfigured() async throws {
            let lab = try Laboratory.here()
            let text = try lab.configurationInUse()
            #expect(text.components(separatedBy: "drop: 0.003").count == 5)
        }

        @Test func everyOctetIsRight() async throws { try await spliceUnderLoad("r1", pairs: 30) }

        @Test func copiesAreIdentical() async throws {
            let lab = try Laboratory.here()
            let file = try await lab.makeRandomFile("faulty.data")
            try await lab.writeAndReadBack("r4", file: file)
        }
    }
}
