import StorageProtocols
import TestSupport
import Testing

/// Printed by tgtadm 1.0.85: two logical units of which one is offline, a target that is offline, one without
/// logical units, an initiator, an account.
private let recorded = """
    Target 1: iqn.2026-01.lab.dsr:r1
        System information:
            Driver: iscsi
            State: ready
        I_T nexus information:
            I_T nexus: 2
                Initiator: iqn.2010-11.libiscsi:iscsi-perf alias: none
                Connection: 0
                    IP Address: 127.0.0.1
        LUN information:
            LUN: 0
                Type: controller
                SCSI ID: IET     00010000
                SCSI SN: beaf10
                Size: 0 MB, Block size: 1
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: null
                Backing store path: None
                Backing store flags: 
            LUN: 1
                Type: disk
                SCSI ID: IET     00010001
                SCSI SN: beaf11
                Size: 8 MB, Block size: 512
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: rdwr
                Backing store path: /srv/a.img
                Backing store flags: 
        Account information:
            u
        ACL information:
            ALL
    Target 2: iqn.2026-01.lab.dsr:r2
        System information:
            Driver: iscsi
            State: ready
        I_T nexus information:
        LUN information:
            LUN: 0
                Type: controller
                SCSI ID: IET     00020000
                SCSI SN: beaf20
                Size: 0 MB, Block size: 1
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: null
                Backing store path: None
                Backing store flags: 
            LUN: 1
                Type: disk
                SCSI ID: IET     00020001
                SCSI SN: beaf21
                Size: 8 MB, Block size: 512
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: rdwr
                Backing store path: /srv/b.img
                Backing store flags: 
            LUN: 2
                Type: disk
                SCSI ID: IET     00020002
                SCSI SN: beaf22
                Size: 8 MB, Block size: 512
                Online: No
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: rdwr
                Backing store path: /srv/b.img
                Backing store flags: 
        Account information:
        ACL information:
            ALL
    Target 3: iqn.2026-01.lab.dsr:r3
        System information:
            Driver: iscsi
            State: offline
        I_T nexus information:
        LUN information:
            LUN: 0
                Type: controller
                SCSI ID: IET     00030000
                SCSI SN: beaf30
                Size: 0 MB, Block size: 1
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: null
                Backing store path: None
                Backing store flags: 
            LUN: 1
                Type: disk
                SCSI ID: IET     00030001
                SCSI SN: beaf31
                Size: 8 MB, Block size: 512
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: rdwr
                Backing store path: /srv/a.img
                Backing store flags: 
        Account information:
        ACL information:
    Target 4: iqn.2026-01.lab.dsr:empty
        System information:
            Driver: iscsi
            State: ready
        I_T nexus information:
        LUN information:
            LUN: 0
                Type: controller
                SCSI ID: IET     00040000
                SCSI SN: beaf40
                Size: 0 MB, Block size: 1
                Online: Yes
                Removable media: No
                Prevent removal: No
                Readonly: No
                SWP: No
                Thin-provisioning: No
                Backing store type: null
                Backing store path: None
                Backing store flags: 
        Account information:
        ACL information:
    """

@Suite struct TargetAdministratorTests {
    @Test func `a recorded listing`() {
        func resource(
            _ name: String, _ state: AnnouncedResource.State, _ luns: UInt16
        ) -> AnnouncedResource {
            AnnouncedResource(
                name: name, target: "iqn.2026-01.lab.dsr:\(name)", state: state, lunCount: luns)
        }
        #expect(
            TargetAdministratorOutput.resources(recorded) == [
                resource("r1", .serving, 1), resource("r2", .serving, 1),
                resource("r3", .standby, 1), resource("empty", .standby, 0),
            ])
    }

    @Test func `a target whose only disk is offline stands by`() {
        let text = recorded.replacing("Online: Yes", with: "Online: No")
        #expect(TargetAdministratorOutput.resources(text).allSatisfy { $0.state == .standby })
    }

    @Test func `what initiators call themselves changes no state`() {
        let text = recorded.replacing(
            "alias: none", with: "alias: x\n        State: offline\n        Online: Yes")
        #expect(text != recorded)
        #expect(
            TargetAdministratorOutput.resources(text)
                == TargetAdministratorOutput.resources(recorded))
    }

    @Test func `names that are not unique, or none`() {
        func names(_ targets: String...) -> [String] {
            TargetAdministratorOutput.resources(
                targets.enumerated().map { "Target \($0.offset + 1): \($0.element)\n" }.joined()
            ).map(\.name)
        }
        #expect(
            names("iqn.2026-01.a:d", "iqn.2026-01.b:d") == ["iqn.2026-01.a:d", "iqn.2026-01.b:d"])
        #expect(names("iqn.2026-01.a:d/e", "iqn.2026-01.a:f") == ["f"])
        #expect(names("disk") == [])
        #expect(names("iqn.2026-01.a:d", "iqn.2026-01.A:D") == ["d"])
        #expect(names() == [])
    }

    @Test func `every truncation, and octets at random`() {
        var random = SplitMix64(seed: 5)
        for end in recorded.indices {
            #expect(TargetAdministratorOutput.resources(String(recorded[..<end])).count <= 4)
        }
        for _ in 0..<2_000 {
            var bytes = Array(recorded.utf8)
            for _ in 0...random.below(5) { random.mutate(&bytes, inserting: "Target 1:\n ") }
            let found = TargetAdministratorOutput.resources(
                String(decoding: bytes, as: UTF8.self))
            #expect(throws: Never.self) { try AnnouncementSender.check(found) }
        }
    }
}

@Suite struct LoadSampleTests {
    private static let stat = """
        cpu  100 0 50 800 50 0 0 0 7 0
        cpu0 50 0 25 400 25 0 0 0 7 0
        cpu1 50 0 25 400 25 0 0 0 0 0
        intr 1 2 3
        """
    private static let later = """
        cpu  160 0 80 860 50 0 0 10 9 0
        cpu0 80 0 40 430 25 0 0 5 9 0
        cpu1 80 0 40 430 25 0 0 5 0 0
        """
    private static let memory = """
        MemTotal:        8000 kB
        MemFree:          100 kB
        MemAvailable:    6000 kB
        """
    private static let network = """
        Inter-|   Receive                                                |  Transmit
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
            lo:  999999     1    0    0    0     0          0         0   999999  1 0 0 0 0 0 0
          eth0:1000 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0
          eth1:    2000 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0
        """

    private func sample(_ stat: String, octets: Int = 1_000) -> LoadSample? {
        LoadSample(
            stat: stat, memory: Self.memory, average: "2.50 1.00 0.50 3/321 4711",
            network: Self.network.replacing("eth0:1000", with: "eth0:\(octets)"))
    }

    @Test func `two samples make a load`() throws {
        let first = try #require(sample(Self.stat))
        #expect(first.cores == 2)
        #expect(first.networkOctets == 4_000)
        let load = try #require(
            sample(Self.later, octets: 11_000)?.load(since: first, seconds: 2))
        // Busy 60 + 30 + 10 of 160.
        #expect(
            load
                == AgentLoad(
                    cpuPermille: 625, memoryPermille: 250, runQueueHundredths: 250, cores: 2,
                    networkOctetsPerSecond: 5_000))
    }

    @Test func `samples that do not follow each other make none`() throws {
        let first = try #require(sample(Self.stat))
        let second = try #require(sample(Self.later))
        #expect(first.load(since: second, seconds: 1) == nil)
        #expect(first.load(since: first, seconds: 1) == nil)
        #expect(second.load(since: first, seconds: 0) == nil)
        // A device that has gone takes its octets with it.
        #expect(
            sample(Self.later, octets: 0)?.load(since: first, seconds: 1)?.networkOctetsPerSecond
                == 0)
    }

    @Test func `files that are none`() {
        #expect(sample("") == nil)
        #expect(sample("cpu\n") == nil)
        #expect(sample("cpu a b c d\n") == nil)
        #expect(LoadSample(stat: Self.stat, memory: "", average: "", network: "") == nil)
        #expect(LoadSample(stat: Self.stat, memory: Self.memory, average: "", network: ":") != nil)
    }

    @Test func `numbers without bounds do not trap`() {
        var first = LoadSample()
        first.memoryTotal = 1
        for value in [Double.infinity, -.infinity, .nan, 1e300, -1e300, 0] {
            var next = LoadSample()
            next.cpuTotal = 10
            next.memoryTotal = 1
            next.memoryAvailable = value
            next.networkOctets = value
            next.runQueue = value
            #expect(next.load(since: first, seconds: 1e-9) != nil)
            next.cpuIdle = value
            next.cpuTotal = value
            _ = next.load(since: first, seconds: 1)
        }
    }
}
