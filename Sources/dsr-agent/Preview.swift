import Foundation
import StorageProtocols

/// What would be announced, for people.
struct Preview: Encodable {
    var server: String
    var dsr: String
    var load: AgentLoad?
    var resources: [AnnouncedResource] = []
    /// Octets of each datagram.
    var datagrams: [Int] = []

    init(server: String, dsr: String) {
        self.server = server
        self.dsr = dsr
    }

    func print(source: inout any ResourceSource, sender: AnnouncementSender) throws {
        var meter = LoadMeter()
        meter.waitForLoad()
        let result = source.look(isDue: true)
        if let problem = result.problem { throw AgentFailure(problem) }
        var copy = self
        var sender = sender
        copy.load = meter.load()
        copy.resources = result.resources
        do {
            copy.datagrams = try sender.announce(
                result.resources, load: copy.load, timestamp: wallMilliseconds()
            ).map(\.count)
        } catch {
            throw AgentFailure(error.description)
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        FileHandle.standardOutput.write(try encoder.encode(copy) + Data("\n".utf8))
    }
}
