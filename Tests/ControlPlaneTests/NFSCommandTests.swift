import ControlPlane
import DataPlane
import Foundation
import Testing

/// Exports, mounts and clients with known values.
enum KnownNFS {
    static var exports: [NFSExportModel] {
        var busy = NFSExportModel()
        busy.name = "homes"
        busy.directory = "/homes"
        busy.path = "/srv/homes"
        busy.handles = "distinct"
        busy.index = 17
        busy.assigned = "nas1"
        busy.calls = 9_000
        busy.replies = 8_990
        busy.fastCalls = 7_500
        busy.fastReplies = 7_499
        busy.givenUp = 3
        busy.repliesPerS = 412.25
        busy.latencyUs = 310
        var idle = NFSExportModel()
        idle.name = "e1"
        idle.directory = "/e1"
        idle.path = "/e1"
        idle.handles = "shared"
        idle.index = 255
        idle.assigned = "nas2"
        idle.state = .waiting
        return [busy, idle]
    }

    static var mounts: [NFSMountModel] {
        let known: [(String, String, String?, Double)] = [
            ("10.0.0.9", "/homes/ann", "homes", 61.5), ("fd00::9", "/", nil, 7_260),
        ]
        return known.map { client, path, resource, age in
            var mount = NFSMountModel()
            mount.client = client
            mount.path = path
            mount.resource = resource
            mount.ageS = age
            return mount
        }
    }

    static var clients: [NFSClientModel] {
        var fast = NFSClientModel()
        fast.client = "10.0.0.9"
        fast.transports = ["tcp", "udp"]
        fast.mounts = 2
        fast.connections = 1
        fast.openCalls = 4
        fast.fastPorts = 3
        fast.fastCalls = 120
        fast.fastReplies = 119
        fast.fastIdleS = 2.5
        var gone = NFSClientModel()
        gone.client = "fd00::9"
        gone.mounts = 1
        return [fast, gone]
    }
}

extension CommandLineService {
    func nfsMounts() async -> [NFSMountModel] { KnownNFS.mounts }
    func nfsExports() async -> [NFSExportModel] { KnownNFS.exports }
    func nfsClients() async -> [NFSClientModel] { KnownNFS.clients }
}

/// `dsrctl nfs` against an API with known values.
@Suite(.serialized) struct NFSCommandTests {
    private let api: ServedAPI<CommandLineService>

    init() throws { api = try ServedAPI(CommandLineService()) }

    private func run(_ arguments: String...) async throws -> CommandLineTool.Result {
        try await api.control(arguments)
    }

    @Test("nfs exports has a line for each export, and is what nfs means")
    func exports() async throws {
        let expected = [
            "NAME   DIRECTORY  PATH        HANDLES   INDEX  ASSIGNED  STATE    REPLIES/S  LATENCY"
                + "  CALLS  REPLIES  FAST  GIVEN UP",
            "homes  /homes     /srv/homes  distinct     17  nas1      served       412.3   310 us"
                + "   9000     8990  7500         3",
            "e1     /e1        /e1         shared      255  nas2      waiting          0        -"
                + "      0        0     0         0",
        ]
        let listed = try await run("nfs", "exports").lines
        #expect(listed == expected)
        let standard = try await run("nfs").lines
        #expect(standard == expected)
    }

    @Test("nfs mounts tells who has mounted what, and for how long")
    func mounts() async throws {
        let lines = try await run("nfs", "mounts").lines
        #expect(
            lines == [
                "CLIENT    PATH        RESOURCE      SINCE",
                "10.0.0.9  /homes/ann  homes      61.500 s",
                "fd00::9   /           -         2 h 1 min",
            ])
    }

    @Test("nfs clients tells what each address uses")
    func clients() async throws {
        let lines = try await run("nfs", "clients").lines
        #expect(
            lines == [
                "CLIENT    TRANSPORTS  MOUNTS  CONNECTIONS  OPEN  FAST PORTS  FAST CALLS     IDLE",
                "10.0.0.9  tcp,udp          2            1     4           3         120  2.500 s",
                "fd00::9   -                1            0     0           0           0        -",
            ])
    }

    @Test("--json prints the API's names and values")
    func json() async throws {
        let exports = try await run("nfs", "exports", "--json").output
        let readExports = try JSONCoding.decode([NFSExportModel].self, Data(exports.utf8))
        #expect(readExports == KnownNFS.exports)
        #expect(exports.contains("\"fast_calls\" : 7500"))
        #expect(exports.contains("\"replies_per_s\" : 412.25"))
        let mounts = try await run("nfs", "mounts", "--json").output
        let readMounts = try JSONCoding.decode([NFSMountModel].self, Data(mounts.utf8))
        #expect(readMounts == KnownNFS.mounts)
        let clients = try await run("nfs", "clients", "--json").output
        let readClients = try JSONCoding.decode([NFSClientModel].self, Data(clients.utf8))
        #expect(readClients == KnownNFS.clients)
        #expect(clients.contains("\"fast_idle_s\" : 2.5"))
    }

    @Test("What nfs does not know is a wrong command line")
    func mistakes() async throws {
        let unknown = try await run("nfs", "explode")
        #expect(unknown.status == 2)
        let argument = try await run("nfs", "exports", "homes")
        #expect(argument.status == 2)
    }
}

/// What the API tells of exports and clients, from what the service knows.
@Suite struct NFSModelTests {
    private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

    @Test func `an export is told with its traffic and what was measured`() throws {
        var resource = Resource(
            name: "homes",
            export: NFSExport(
                directory: "/homes", path: "/srv/homes", handles: .shared, index: 200),
            servers: ["a", "b"], assigned: "b")
        var traffic = NFSResourceStatistics()
        traffic.sent(100)
        traffic.sent(50)
        traffic.answered(700, after: 2_000_000)
        traffic.givenUp = 1
        let measured = ResourceMeasurement(requestsPerSecond: 12.5, latency: 0.000_75)
        let model = try #require(NFSExportModel(resource, .moving, traffic, measured))
        #expect(model.name == "homes" && model.directory == "/homes")
        #expect(model.path == "/srv/homes" && model.handles == "shared" && model.index == 200)
        #expect(model.assigned == "b" && model.state == .moving)
        #expect(model.calls == 2 && model.replies == 1 && model.givenUp == 1)
        #expect(model.fastCalls == 0 && model.fastReplies == 0)
        #expect(model.clientBytes == 150 && model.serverBytes == 700)
        #expect(model.repliesPerS == 12.5 && model.latencyUs == 750)

        // Without an answer there is no latency.
        let quiet = try #require(
            NFSExportModel(resource, .served, traffic, ResourceMeasurement()))
        #expect(quiet.repliesPerS == 0 && quiet.latencyUs == nil)
        let unknown = try #require(NFSExportModel(resource, .served, traffic, nil))
        #expect(unknown == quiet)
        resource.export?.index = nil
        let named = try #require(NFSExportModel(resource, .served, traffic, nil))
        #expect(named.index == NFSExport.index(ofName: "homes"))
        resource.export = nil
        #expect(NFSExportModel(resource, .served, traffic, nil) == nil)
    }

    @Test func `clients are put together by address`() throws {
        let six = try address("fd00::9")
        let high = try address("10.0.0.10")
        let low = try address("10.0.0.9")
        var table = NFSClientTable()
        #expect(table.models.isEmpty)
        table.addBinding(of: high, calls: 10, replies: 9, idle: 4_000_000_000)
        table.addBinding(of: high, calls: 5, replies: 5, idle: 1_500_000_000)
        table.addMount(of: six)
        table.addMount(of: six)
        table.addConnection(of: low)
        table.addConnection(of: low)
        for transport in [NFSClient.Transport.tcp, .udp, .udp] {
            table.addOpenCall(of: NFSClient(address: low, port: 900, transport: transport))
        }
        let models = table.models
        #expect(models.map(\.client) == ["10.0.0.9", "10.0.0.10", "fd00::9"])
        #expect(models.map(\.transports) == [["tcp", "udp"], ["udp"], []])
        #expect(models.map(\.mounts) == [0, 0, 2])
        #expect(models.map(\.connections) == [2, 0, 0])
        #expect(models.map(\.openCalls) == [3, 0, 0])
        #expect(models.map(\.fastPorts) == [0, 2, 0])
        #expect(models.map(\.fastCalls) == [0, 15, 0])
        #expect(models.map(\.fastReplies) == [0, 14, 0])
        #expect(models.map(\.fastIdleS) == [nil, 1.5, nil])
    }
}
