import ControlPlane
import DataPlane
import StorageProtocols
import Testing

@Suite struct NFSMountTests {
    private func call(
        _ bench: NFSBench, _ procedure: UInt32, _ arguments: [UInt8] = [], version: UInt32 = 3
    ) throws -> [UInt8] {
        let call = bench.message(MountProtocol.program, version, procedure, arguments)
        return try #require(bench.send(call))
    }

    private func path(_ text: String) -> [UInt8] { NFSArguments.opaque(Array(text.utf8)) }

    private func mounts(_ bench: NFSBench) throws -> [MountEntry] {
        try #require(nfsResults(of: try call(bench, 2)) { try MountEntry.list(&$0) })
    }

    @Test func `MNT goes to the server, with its path and the client's credential`() throws {
        let bench = NFSBench.boxes()
        bench.server("r1").storage.put("sub/dir", .directory)
        guard case .mounted(let handle, let flavors) = bench.mount("/r1") else {
            Issue.record("is not mounted")
            return
        }
        #expect(flavors == [RPCFlavor.system, RPCFlavor.none])
        let forward = try #require(bench.forwards.first)
        #expect(forward.resource == "r1")
        #expect(forward.program == MountProtocol.program)
        #expect(forward.version == 3)
        #expect(forward.isIdempotent)
        let caller = try #require(bench.server("r1").log.last?.caller)
        #expect(caller == bench.credential)
        #expect(bench.call3(.getattr, NFSArguments.handle(handle))?.isOK == true)
        // Below an export, and written in many ways.
        let sub = bench.root("/r1/sub/dir")
        #expect(bench.root("//r1/./sub/dir/") == sub)
        let found = try #require(bench.lookUp("sub", in: handle))
        #expect(bench.lookUp("dir", in: found.handle)?.handle == sub)
        #expect(bench.mount("/r1/nothing") == .failed(.noEntry))
    }

    @Test func `MNT of what is not exported`() {
        let bench = NFSBench.boxes()
        for path in ["/", "/r3", "/r", "/r11", "/srv/r1"] {
            #expect(bench.mount(path) == .failed(.noEntry), "\(path)")
            #expect(bench.mount(path, .one) == .failed(.noEntry), "\(path)")
        }
        for path in ["", "r1", "/r1/../r2", "/.."] {
            #expect(bench.mount(path) == .failed(.accessDenied), "\(path)")
        }
        #expect(bench.forwards.isEmpty)
        // At the server it would be longer than a path may be.
        let long = "/r1/" + String(repeating: "a", count: 1_020)
        #expect(bench.mount(long) == .failed(.nameTooLong))
    }

    @Test func `a path of octets that are no text`() throws {
        let bench = NFSBench.boxes()
        let octets: [UInt8] = Array("/r1/".utf8) + [0xff, 0xfe]
        let call = bench.message(MountProtocol.program, 3, 1, NFSArguments.opaque(octets))
        guard case .forward(let forward) = bench.decision(call) else {
            Issue.record("is not forwarded")
            return
        }
        let expected: [UInt8] = Array("/srv/r1/".utf8) + [0xff, 0xfe, 0, 0]
        #expect(Array(forward.call.suffix(12)) == expected)
    }

    @Test func `flavors that cannot be passed on are not told`() {
        let bench = NFSBench.boxes()
        func flavors(_ told: [UInt32]) -> [UInt32] {
            bench.server("r1").flavors = told
            guard case .mounted(_, let flavors) = bench.mount("/r1") else { return [] }
            return flavors
        }
        #expect(flavors([390_003, RPCFlavor.system, 390_004]) == [RPCFlavor.system])
        #expect(flavors([390_003]) == [390_003])
        #expect(flavors([]) == [])
    }

    @Test(arguments: [UInt32(1), 3])
    func `EXPORT lists everything, with the clients of rules`(version: UInt32) throws {
        let inside = NFSAccessRule(
            clients: [
                .network(try #require(IPPrefix("10.0.0.0/24"))),
                .network(try #require(IPPrefix("10.9.9.9/32"))),
            ])
        let never = NFSAccessRule(
            clients: [.network(try #require(IPPrefix("10.8.0.0/16")))], mode: .none)
        let settings = NFSBench.settings(
            [
                ("r1", NFSExport(directory: "/r1")),
                ("r2", NFSExport(directory: "/a/r2", access: [never, inside])),
                (
                    "r3",
                    NFSExport(
                        directory: "/r3",
                        access: [NFSAccessRule(clients: [.everybody], mode: .readOnly)])
                ),
            ], hasRoot: true)
        let bench = NFSBench(settings, [:])
        let list = nfsResults(of: try call(bench, 5, version: version)) {
            try MountExport.list(&$0)
        }
        #expect(
            list == [
                MountExport(directory: "/"), MountExport(directory: "/r1"),
                MountExport(directory: "/a/r2", groups: ["10.0.0.0/24", "10.9.9.9"]),
                MountExport(directory: "/r3", groups: ["*"]),
            ])
    }

    @Test func `DUMP, UMNT and UMNTALL`() throws {
        let bench = NFSBench.boxes(hasRoot: true)
        let found1 = try mounts(bench)
        #expect(found1 == [])
        for path in ["/r1", "/r2", "/", "/r1/"] { _ = bench.mount(path) }
        _ = bench.mount("/r9")
        bench.client.address = NFSBench.address("fd00::9")
        _ = bench.mount("/r1", .one)
        let first = ["/r1", "/r2", "/"].map {
            MountEntry(hostName: "10.0.0.9", directory: $0)
        }
        let second = MountEntry(hostName: "fd00::9", directory: "/r1")
        let found2 = try mounts(bench)
        #expect(found2 == first + [second])
        // Only one's own.
        _ = try call(bench, 3, path("/r2"))
        let found3 = try mounts(bench)
        #expect(found3 == first + [second])
        _ = try call(bench, 3, path("/r1/"), version: 1)
        let found4 = try mounts(bench)
        #expect(found4 == first)
        bench.client.address = NFSBench.address("10.0.0.9")
        _ = try call(bench, 3, path("/r2"))
        let found5 = try mounts(bench)
        #expect(found5 == [first[0], first[2]])
        _ = try call(bench, 4)
        let found6 = try mounts(bench)
        #expect(found6 == [])
        let found7 = try call(bench, 0).count
        #expect(found7 == 24)
        #expect(bench.forwards.isEmpty)
    }

    @Test func `the list of mounts has a bound`() {
        var list = NFSMountList(maximum: 3)
        let address = NFSBench.address("10.0.0.9")
        for (time, name) in ["a", "b", "a", "c", "b", "d"].enumerated() {
            guard let path = NFSPath(Array("/\(name)".utf8)) else { continue }
            list.add(path, of: address, at: UInt64(time))
        }
        #expect(list.entries.map(\.directory) == ["/b", "/c", "/d"])
        #expect(list.all.map(\.since) == [1, 3, 5], "since they came first")
    }

    @Test func `a mount is told with its time, and with the export that it is in`() throws {
        let bench = NFSBench.boxes(hasRoot: true)
        bench.server("r2").storage.put("sub", .directory)
        for path in ["/r2/sub", "/"] { _ = bench.mount(path) }
        let mounts = bench.router.mounts.all
        let paths = mounts.map { String(decoding: $0.mount.path.octets, as: UTF8.self) }
        #expect(paths == ["/r2/sub", "/"])
        #expect(mounts.map { bench.router.resource(at: $0.mount.path) } == ["r2", nil])
        let first = try #require(mounts.first?.since)
        let last = try #require(mounts.last?.since)
        #expect(first > 0 && first < last && last <= bench.now)
    }

    @Test(arguments: [
        ("/", "/"), ("//", "/"), ("/a", "/a"), ("/a//b/", "/a/b"), ("/a/./b", "/a/b"),
        ("/...", "/..."),
    ])
    func paths(text: String, expected: String) throws {
        let path = try #require(NFSPath(Array(text.utf8)))
        #expect(path.octets == Array(expected.utf8))
    }

    @Test(arguments: ["", "a", "a/b", "/..", "/a/..", "/a/../b"])
    func `what is no path`(text: String) {
        #expect(NFSPath(Array(text.utf8)) == nil)
    }

    @Test func `what is behind a path`() throws {
        func path(_ text: String) throws -> NFSPath { try #require(NFSPath(Array(text.utf8))) }
        let whole = try path("/a/b/c")
        let first = try path("/a")
        let top = try path("/")
        let other = try path("/ab")
        let behind = try #require(whole.names(behind: first))
        #expect(behind.map { String(decoding: $0, as: UTF8.self) } == ["b", "c"])
        #expect(other.appending(behind).octets == Array("/ab/b/c".utf8))
        #expect(whole.names(behind: whole)?.isEmpty == true)
        #expect(whole.names(behind: top)?.count == 3)
        #expect(whole.names(behind: other) == nil)
        #expect(first.names(behind: whole) == nil)
    }
}

@Suite struct NFSAccessTests {
    private func bench(_ rules: [NFSAccessRule]) -> NFSBench {
        let server = NFSFakeServer(NFSFakeStorage(), path: "/r1")
        server.storage.put("file", data: [1, 2, 3])
        return NFSBench(
            NFSBench.settings([("r1", NFSExport(directory: "/r1", access: rules))]),
            ["r1": server])
    }

    private func rule(
        _ clients: String, _ mode: NFSAccessRule.Mode = .readWrite,
        _ squash: NFSAccessRule.Squash = .none
    ) -> NFSAccessRule {
        NFSAccessRule(
            clients: [IPPrefix(clients).map(NFSAccessRule.Clients.network) ?? .everybody],
            mode: mode, squash: squash, anonymousUser: 5_000,
            anonymousGroup: 6_000)
    }

    // MARK: Rules

    @Test func `the first rule that has the address counts`() throws {
        let rules = [
            rule("10.0.0.9", .none), rule("10.0.0.0/24", .readOnly, .root),
            rule("fd00::/64", .readWrite, .all),
        ]
        let export = NFSExport(directory: "/r1", access: rules)
        let expected: [(String, NFSAccessRule.Mode, NFSAccessRule.Squash)] = [
            ("10.0.0.9", .none, .none), ("10.0.0.8", .readOnly, .root), ("10.0.1.1", .none, .none),
            ("fd00::5", .readWrite, .all), ("fd00:0:0:1::5", .none, .none),
        ]
        for (address, mode, squash) in expected {
            let rights = export.rights(of: NFSBench.address(address))
            #expect(rights.mode == mode, "\(address)")
            #expect(rights.squash == squash, "\(address)")
        }
        let open = NFSExport(directory: "/r1").rights(of: NFSBench.address("1.2.3.4"))
        #expect(open == NFSRights(mode: .readWrite))
        #expect(
            NFSExport(directory: "/r1", access: [rule("*", .readOnly)])
                .rights(of: NFSBench.address("::1")).mode == .readOnly)
    }

    @Test func `nothing for those who may not`() throws {
        let bench = bench([rule("10.0.0.0/24", .none), rule("*")])
        #expect(bench.mount("/r1") == .failed(.accessDenied))
        #expect(bench.mount("/r1", .one) == .failed(.accessDenied))
        bench.client.address = NFSBench.address("10.1.0.1")
        let root = bench.root("/r1")
        let file = try #require(bench.lookUp("file", in: root)).handle
        #expect(bench.call3(.read, NFSArguments.read(file))?.data == [1, 2, 3])
        // A handle from somebody else is of no use.
        bench.client.address = NFSBench.address("10.0.0.1")
        for procedure in [NFSv3Procedure.getattr, .readlink, .fsinfo] {
            #expect(
                bench.call3(procedure, NFSArguments.handle(file))?.status
                    == NFSv3Status.stale.rawValue)
        }
        #expect(
            bench.call3(.write, NFSArguments.write(file, [9]))?.status
                == NFSv3Status.stale.rawValue)
        #expect(bench.forwards.isEmpty)
        #expect(bench.router.counters.refusals[.access] == 6)
        #expect(bench.router.passableExports(for: bench.client.address).isEmpty)
        #expect(
            bench.router.passableExports(for: NFSBench.address("10.1.0.1"))
                == [UInt32(NFSExport.index(ofName: "r1"))])
    }

    @Test func `read only`() throws {
        let bench = bench([rule("*", .readOnly)])
        let root = bench.root("/r1")
        let file = try #require(bench.lookUp("file", in: root)).handle
        #expect(bench.call3(.read, NFSArguments.read(file))?.data == [1, 2, 3])
        #expect(bench.call3(.commit, NFSArguments.read(file))?.isOK == true)
        let place = NFSArguments.place(root, "new")
        let calls: [(NFSv3Procedure, [UInt8])] = [
            (.setattr, NFSArguments.handle(file) + NFSArguments.nothing + [0, 0, 0, 0]),
            (.write, NFSArguments.write(file, [1])),
            (.create, NFSArguments.create(root, "new", mode: 0)),
            (.mkdir, place + NFSArguments.nothing),
            (.symlink, NFSArguments.symlink(root, "new", "x")),
            (.mknod, place + NFSArguments.words(7) + NFSArguments.nothing),
            (.remove, NFSArguments.place(root, "file")), (.rmdir, NFSArguments.place(root, "file")),
            (.rename, NFSArguments.place(root, "file") + place),
            (.link, NFSArguments.handle(file) + place),
        ]
        for (procedure, arguments) in calls {
            let answer = bench.call3(procedure, arguments)
            #expect(answer?.status == NFSv3Status.readOnly.rawValue, "\(procedure)")
            #expect(answer?.isWhole == true)
            #expect(bench.forwards.isEmpty)
        }
        #expect(bench.router.counters.refusals[.readOnly] == UInt64(calls.count))
        // What ACCESS promises holds.
        let access = NFSArguments.handle(root) + NFSArguments.words(0x3f)
        #expect(bench.call3(.access, access)?.octets.last == 0x23)
        let root2 = bench.root("/r1", .one)
        let removal = bench.call2(.remove, NFSArguments.place2(root2, "file"))
        #expect(removal?.status == NFSv2Status.readOnly.rawValue)
        #expect(bench.call2(.getattr, root2)?.isOK == true)
        #expect(bench.router.passableExports(for: bench.client.address).isEmpty)
    }

    // MARK: Squash

    /// The caller of a GETATTR as the server sees it.
    private func caller(
        _ bench: NFSBench, _ credential: RPCSystemCredential?
    ) throws -> RPCSystemCredential? {
        bench.credential = credential
        let root = bench.root("/r1")
        let mounted = bench.server("r1").log.last
        // MNT is the client's own.
        #expect(mounted?.caller == credential)
        let answer = try #require(bench.call3(.getattr, NFSArguments.handle(root)))
        #expect(answer.isOK)
        return bench.server("r1").log.last?.caller
    }

    private func credential(_ uid: UInt32, _ gid: UInt32, _ gids: [UInt32]) -> RPCSystemCredential {
        RPCSystemCredential(stamp: 7, machineName: "host1", uid: uid, gid: gid, gids: gids)
    }

    @Test func `root is squashed, and nobody else`() throws {
        let bench = bench([rule("*", .readWrite, .root)])
        let cases: [(RPCSystemCredential, RPCSystemCredential)] = [
            (credential(0, 0, []), credential(5_000, 6_000, [])),
            (credential(0, 100, [4, 0, 5]), credential(5_000, 100, [4, 6_000, 5])),
            (credential(1_000, 0, [0]), credential(1_000, 6_000, [6_000])),
            (credential(1_000, 100, [4, 5]), credential(1_000, 100, [4, 5])),
        ]
        for (own, expected) in cases {
            let found = try caller(bench, own)
            #expect(found == expected)
        }
        // Servers know who nobody is.
        let found8 = try caller(bench, nil)
        #expect(found8 == nil)
    }

    @Test func `everybody is squashed`() throws {
        let bench = bench([rule("*", .readWrite, .all)])
        for own in [credential(0, 0, []), credential(1_000, 100, Array(1...16))] {
            let found9 = try caller(bench, own)
            #expect(found9 == credential(5_000, 6_000, []))
        }
        let nobody = RPCSystemCredential(machineName: "", uid: 5_000, gid: 6_000)
        let found10 = try caller(bench, nil)
        #expect(found10 == nobody)
    }

    @Test func `nobody is squashed`() throws {
        let bench = bench([rule("*")])
        let own = credential(0, 0, [0, 1])
        let found11 = try caller(bench, own)
        #expect(found11 == own)
        let found12 = try caller(bench, nil)
        #expect(found12 == nil)
    }

    @Test(arguments: 0...8)
    func `names of all lengths, and what is behind the credential`(length: Int) throws {
        for squash in [NFSAccessRule.Squash.root, .all] {
            let bench = bench([rule("*", .readWrite, squash)])
            bench.credential = RPCSystemCredential(
                machineName: String(repeating: "h", count: length), uid: 0, gid: 0,
                gids: Array(0..<UInt32(length)))
            let root = bench.root("/r1")
            let file = try #require(bench.lookUp("file", in: root)).handle
            #expect(bench.call3(.write, NFSArguments.write(file, [7, 8, 9]))?.isOK == true)
            #expect(bench.call3(.read, NFSArguments.read(file))?.data == [7, 8, 9])
            let caller = try #require(bench.server("r1").log.last?.caller)
            #expect(caller.machineName == bench.credential?.machineName)
            #expect(caller.uid == 5_000 && caller.gid == 6_000)
            #expect(!caller.gids.contains(0))
        }
    }

    @Test func `a credential that is none`() throws {
        let bench = bench([rule("*", .readWrite, .root)])
        let root = bench.root("/r1")
        let good = bench.message(.v3(.getattr), NFSArguments.handle(root))
        // The length of the machine's name, behind flavor, length and stamp.
        var bad = good
        bad[36 + 3] = 0xff
        let answer = NFSAnswer(
            try #require(bench.send(bad)), to: .v3(.getattr), call: bad)
        #expect(answer.refusal == .authenticationError(.badCredential))
        // Where nothing is squashed, it is the server's business.
        let open = self.bench([rule("*")])
        #expect(open.root("/r1") == root)
        guard case .forward(let forward) = open.decision(bad) else {
            Issue.record("is not forwarded")
            return
        }
        #expect(forward.call.count == bad.count - 8)
    }
}
