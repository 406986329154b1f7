import ControlPlane
import Foundation
import Testing

/// Volumes with known states.
enum KnownVolumes {
    static var all: [VolumeModel] { [stripe, copying, degraded, unknown, troubled] }

    private static func member(
        _ resource: String, _ server: String?, _ fill: (inout VolumeMemberModel) -> Void = { _ in }
    ) -> VolumeMemberModel {
        var member = VolumeMemberModel()
        member.resource = resource
        member.server = server
        fill(&member)
        return member
    }

    private static func volume(
        _ name: String, _ unit: Int, _ kind: String, _ capacity: UInt64?,
        _ members: [VolumeMemberModel]
    ) -> VolumeModel {
        var volume = VolumeModel()
        volume.name = name
        volume.unit = unit
        volume.kind = kind
        volume.capacity = capacity
        volume.members = members
        return volume
    }

    static var stripe: VolumeModel {
        volume(
            "v7", 7, "stripe", 192 << 20,
            [member("s1", "server1"), member("s2", "server2"), member("s3", "server3")])
    }

    static var copying: VolumeModel {
        let back = member("m2", "server2") { member in
            member.state = .copying
            member.copied = 24
            member.toCopy = 64
        }
        var volume = volume("v8", 8, "mirror", 64 << 20, [member("m1", "server1"), back])
        volume.changedRegions = 64
        volume.regions = 64
        return volume
    }

    static var degraded: VolumeModel {
        let lost = member("a2", nil) { member in
            member.state = .out
            member.reason = "connection refused"
        }
        var volume = volume("v-9", 109, "mirror", 1_536 << 30, [member("a1", "server3"), lost])
        volume.changedRegions = 2
        volume.regions = 1_024
        return volume
    }

    static var unknown: VolumeModel {
        volume("v10", 10, "concatenation", nil, [member("c1", "server1")])
    }

    static var troubled: VolumeModel {
        var volume = volume(
            "v11", 11, "mirror", nil, [member("b1", "server1"), member("b2", "server2")])
        volume.trouble = "its change map is about other members: x, y"
        return volume
    }
}

extension CommandLineService {
    func volumes() async -> [VolumeModel] { KnownVolumes.all }

    func volume(_ name: String) async throws(ControlError) -> VolumeModel {
        note("volume \(name)")
        guard let volume = KnownVolumes.all.first(where: { $0.name == name }) else {
            throw ControlError(
                .notFound, "there is no volume \(name)", suggestion: "there are v7, v8")
        }
        return volume
    }
}

/// `dsrctl volume` against an API with known values, and the metrics of the same volumes.
@Suite(.serialized) struct VolumeCommandTests {
    private let api: ServedAPI<CommandLineService>
    private var service: CommandLineService { api.service }

    init() throws { api = try ServedAPI(CommandLineService()) }

    private func run(_ arguments: String...) async throws -> CommandLineTool.Result {
        try await api.control(arguments)
    }

    @Test("volume list has a line for each volume, with its state in words")
    func list() async throws {
        let expected = [
            "NAME  UNIT  KIND           CAPACITY  STATE         MEMBERS",
            "v7       7  stripe          192 MiB  whole         s1,s2,s3",
            "v8       8  mirror           64 MiB  copying 37 %  m1,m2",
            "v-9    109  mirror          1.5 TiB  degraded      a1,a2",
            "v10     10  concatenation         -  unknown       c1",
            "v11     11  mirror                -  in trouble    b1,b2",
        ]
        #expect(try await run("volume", "list").lines == expected)
        #expect(try await run("volume").lines == expected)
    }

    @Test("volume show tells of each member what it does")
    func show() async throws {
        #expect(
            try await run("volume", "show", "v8").lines == [
                "volume    v8",
                "unit      8",
                "kind      mirror",
                "capacity  67108864 bytes, 64 MiB",
                "state     copying 37 %",
                "changed   64 of 64 regions",
                "MEMBER  SERVER   STATE       PROGRESS                REASON",
                "m1      server1  in_service  -",
                "m2      server2  copying     24 of 64 regions, 37 %",
            ])
        let degraded = try await run("volume", "show", "v-9").lines
        #expect(degraded.contains("changed   2 of 1024 regions"))
        #expect(degraded.last == "a2      -        out         -         connection refused")
        let troubled = try await run("volume", "show", "v11").lines
        #expect(troubled.contains("trouble  its change map is about other members: x, y"))
        #expect(!troubled.contains { $0.hasPrefix("capacity") || $0.hasPrefix("changed") })
        #expect(troubled.last == "b2      server2  -      -")
        #expect(service.calls == ["volume v8", "volume v-9", "volume v11"])
    }

    @Test("--json prints the API's names and values")
    func json() async throws {
        let list = try await run("volume", "list", "--json")
        let volumes = try JSONCoding.decode([VolumeModel].self, Data(list.output.utf8))
        #expect(volumes == KnownVolumes.all)
        let shown = try await run("volume", "show", "v8", "--json")
        #expect(
            try JSONCoding.decode(VolumeModel.self, Data(shown.output.utf8)) == KnownVolumes.copying
        )
        #expect(shown.output.contains("\"to_copy\" : 64"))
    }

    @Test("A volume that is not there, and none at all, are errors")
    func mistakes() async throws {
        let missing = try await run("volume", "show", "v99")
        #expect(missing.status == 1)
        #expect(missing.errors.contains("there is no volume v99"))
        #expect(missing.errors.contains("there are v7, v8"))
        #expect(try await run("volume", "show").status == 2)
    }

    @Test("Metrics tell the state of each member, and how far a copy is")
    func metrics() {
        let volumes = [KnownVolumes.copying, KnownVolumes.degraded, KnownVolumes.unknown]
        let text = MetricText.write(VolumeMetrics.families(volumes))
        let samples = text.split(separator: "\n").map(String.init).filter { !$0.hasPrefix("#") }
        func states(_ volume: String, _ member: String, _ values: [Int]) -> [String] {
            zip(["in_service", "out", "copying"], values).map { state, value in
                "dsr_volume_member_state{volume=\"\(volume)\",member=\"\(member)\","
                    + "state=\"\(state)\"} \(value)"
            }
        }
        var expected = states("v8", "m1", [1, 0, 0]) + states("v8", "m2", [0, 0, 1])
        expected += states("v-9", "a1", [1, 0, 0]) + states("v-9", "a2", [0, 1, 0])
        expected += states("v10", "c1", [0, 0, 0])
        expected += [
            #"dsr_volume_changed_regions{volume="v8"} 64"#,
            #"dsr_volume_changed_regions{volume="v-9"} 2"#,
            #"dsr_volume_copied_regions{volume="v8",member="m2"} 24"#,
            #"dsr_volume_regions_to_copy{volume="v8",member="m2"} 64"#,
        ]
        #expect(samples == expected)
        for family in VolumeMetrics.families([]) { #expect(family.samples.isEmpty) }
    }
}
