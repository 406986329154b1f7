import ControlPlane
import StorageProtocols
import Testing

/// Five exports below "/", of which two are in directories of their own.
private func bench(_ more: [String] = [], access: [NFSAccessRule] = []) -> NFSBench {
    let directories = ["/r1", "/r2", "/homes/a", "/homes/b", "/x/y/z"] + more
    let names = ["r1", "r2", "ha", "hb", "xyz"] + more.map { String($0.dropFirst()) }
    var servers: [String: NFSFakeServer] = [:]
    for name in names { servers[name] = NFSFakeServer(NFSFakeStorage(), path: "/srv/\(name)") }
    let exports = zip(names, directories).enumerated().map { place, names in
        (
            name: names.0,
            export: NFSExport(
                directory: names.1, path: "/srv/\(names.0)",
                access: names.0 == "hb" ? access : [], index: place)
        )
    }
    return NFSBench(NFSBench.settings(exports, hasRoot: true), servers)
}

private func names(_ answer: NFSAnswer?) -> [String] {
    answer.flatMap(nfsListing)?.entries.map(\.name).sorted() ?? ["?"]
}

@Suite struct NFSRootDirectoryTests {
    @Test func `one mount sees everything`() throws {
        let bench = bench()
        let root = bench.root("/")
        #expect(root.count == 32)
        #expect(bench.forwards.isEmpty)
        let list = bench.call3(.readdir, NFSArguments.readdir(root, count: 4_096))
        #expect(names(list) == [".", "..", "homes", "r1", "r2", "x"])
        let homes = try #require(bench.lookUp("homes", in: root))
        #expect(homes.isOK)
        #expect(bench.forwards.isEmpty)
        let inside = bench.call3(
            .readdirplus, NFSArguments.readdirplus(homes.handle, count: 4_096))
        #expect(names(inside) == [".", "..", "a", "b"])
        // An export: MNT for its root, GETATTR for its attributes.
        let found = try #require(bench.lookUp("a", in: homes.handle))
        #expect(found.isOK)
        #expect(bench.asked.map(\.program) == [MountProtocol.program])
        #expect(bench.server("ha").takeLog() == ["MNT", "GETATTR"])
        #expect(found.handle == bench.root("/homes/a"))
        _ = bench.server("ha").takeLog()
        // From then on its root is known.
        #expect(bench.lookUp("a", in: homes.handle)?.handle == found.handle)
        #expect(bench.server("ha").takeLog() == ["GETATTR"])
        #expect(bench.lookUp("nothing", in: root)?.status == NFSv3Status.noEntry.rawValue)
    }

    @Test func `attributes of an export are its server's, those of directories are ours`() throws {
        let bench = bench()
        let root = bench.root("/")
        bench.server("r1").storage.put("file")
        let own = try #require(bench.call3(.getattr, NFSArguments.handle(root)))
        let found = try #require(bench.lookUp("r1", in: root))
        // Of the export's root, then of ours.
        #expect(found.fileNumbers == [2, own.fileNumbers[0]])
        #expect(found.fileSystems[1] == own.fileSystems[0])
        #expect(found.fileSystems[0] != own.fileSystems[0])
        let there = try #require(bench.call3(.getattr, NFSArguments.handle(found.handle)))
        #expect(there.fileSystems == [found.fileSystems[0]])
        let file = try #require(bench.lookUp("file", in: found.handle))
        #expect(file.fileSystems == [found.fileSystems[0], found.fileSystems[0]])
        // Another export with the same numbers is another file system.
        let other = try #require(bench.lookUp("r2", in: root))
        #expect(other.fileNumbers[0] == 2)
        #expect(other.fileSystems[0] != found.fileSystems[0])
    }

    @Test func `the way up`() throws {
        let bench = bench()
        let root = bench.root("/")
        let x = try #require(bench.lookUp("x", in: root)).handle
        let y = try #require(bench.lookUp("y", in: x)).handle
        #expect(bench.root("/x") == x)
        #expect(bench.root("/x/y/") == y)
        #expect(bench.lookUp(".", in: y)?.handle == y)
        #expect(bench.lookUp("..", in: y)?.handle == x)
        #expect(bench.lookUp("..", in: x)?.handle == root)
        #expect(bench.lookUp("..", in: root)?.handle == root)
        let export = try #require(bench.lookUp("z", in: y)).handle
        #expect(bench.lookUp("..", in: export)?.handle == y)
        #expect(bench.forwards.isEmpty)
        // Within an export its server knows.
        bench.server("xyz").storage.put("deep/file")
        let deep = try #require(bench.lookUp("deep", in: export)).handle
        #expect(bench.lookUp("..", in: deep)?.handle == export)
        #expect(bench.forwards.count == 1)
    }

    @Test func `listings in pages of every size`() throws {
        let bench = bench((0..<40).map { "/export\($0)" })
        let root = bench.root("/")
        for isPlus in [false, true] {
            for count: UInt32 in [300, 350, 512, 1_000, 8_192] {
                var listed: [NFSListed] = []
                var cookie: UInt64 = 0
                var isAtEnd = false
                for _ in 0..<100 where !isAtEnd {
                    let answer = try #require(
                        isPlus
                            ? bench.call3(
                                .readdirplus,
                                NFSArguments.readdirplus(root, cookie: cookie, count: count))
                            : bench.call3(
                                .readdir,
                                NFSArguments.readdir(root, cookie: cookie, count: count)))
                    // What counts are the octets behind the status.
                    #expect(answer.body.count <= Int(count))
                    let page = try #require(nfsListing(answer))
                    #expect(!page.entries.isEmpty || page.isAtEnd)
                    listed += page.entries
                    cookie = listed.last?.cookie ?? 0
                    isAtEnd = page.isAtEnd
                }
                #expect(isAtEnd)
                #expect(listed.count == 46)
                #expect(Set(listed.map(\.name)).count == 46)
                #expect(Set(listed.map(\.fileNumber)).count == 45, "\".\" and \"..\" are one")
                #expect(listed.map(\.cookie) == listed.map(\.cookie).sorted())
                #expect(listed.allSatisfy { $0.cookie < 1 << 31 && $0.fileNumber < 1 << 31 })
            }
        }
        let tooSmall = bench.call3(.readdir, NFSArguments.readdir(root, count: 100))
        #expect(tooSmall?.status == NFSv3Status.tooSmall.rawValue)
    }

    @Test func `a listing goes on when exports have come and gone`() throws {
        let before = bench((0..<20).map { "/export\($0)" })
        let root = before.root("/")
        let whole = try #require(
            before.call3(.readdir, NFSArguments.readdir(root, count: 8_192)).flatMap(nfsListing))
        // Another process, with other exports beside them.
        let after = bench((10..<30).map { "/export\($0)" })
        #expect(after.root("/") == root)
        for entry in whole.entries {
            let rest = try #require(
                after.call3(
                    .readdir, NFSArguments.readdir(root, cookie: entry.cookie, count: 8_192)
                ).flatMap(nfsListing))
            #expect(rest.entries.allSatisfy { $0.cookie > entry.cookie })
            let expected = whole.entries.filter {
                $0.cookie > entry.cookie && !(0..<10).map { "export\($0)" }.contains($0.name)
            }
            #expect(expected.allSatisfy { rest.entries.contains($0) })
        }
        // A verifier of somebody else.
        let wrong = after.call3(
            .readdirplus, NFSArguments.readdirplus(root, cookie: 5, verifier: 1, count: 8_192))
        #expect(wrong?.status == NFSv3Status.badCookie.rawValue)
    }

    // MARK: What else can be asked of a directory

    @Test func `rights, sizes and limits`() throws {
        let bench = bench()
        let root = bench.root("/")
        let access = try #require(
            bench.call3(.access, NFSArguments.handle(root) + NFSArguments.words(0x3f)))
        #expect(access.isOK)
        #expect(access.octets.suffix(4) == [0, 0, 0, 0x23])
        for procedure in [NFSv3Procedure.fsstat, .fsinfo, .pathconf] {
            #expect(bench.call3(procedure, NFSArguments.handle(root))?.isOK == true)
        }
        // rtmax: behind status and attributes.
        func readMaximum() throws -> UInt32 {
            let info = try #require(bench.call3(.fsinfo, NFSArguments.handle(root)))
            return info.octets.field32(24 + 4 + 88)
        }
        let found1 = try readMaximum()
        #expect(found1 == 1 << 20)
        bench.client.transport = .udp
        let found2 = try readMaximum()
        #expect(found2 == 32_768)
    }

    @Test func `nothing in it can be changed or read`() throws {
        let bench = bench()
        let root = bench.root("/")
        let place = NFSArguments.place(root, "new")
        let calls: [(NFSv3Procedure, [UInt8], NFSv3Status)] = [
            (.setattr, NFSArguments.handle(root) + NFSArguments.nothing + [0, 0, 0, 0], .readOnly),
            (.write, NFSArguments.write(root, [1]), .readOnly),
            (.create, NFSArguments.create(root, "new", mode: 0), .readOnly),
            (.mkdir, place + NFSArguments.nothing, .readOnly),
            (.symlink, NFSArguments.symlink(root, "new", "x"), .readOnly),
            (.mknod, place + NFSArguments.words(7) + NFSArguments.nothing, .readOnly),
            (.remove, NFSArguments.place(root, "r1"), .readOnly),
            (.rmdir, NFSArguments.place(root, "r1"), .readOnly),
            (.rename, NFSArguments.place(root, "r1") + place, .readOnly),
            (.link, NFSArguments.handle(root) + place, .readOnly),
            (.read, NFSArguments.read(root), .isDirectory),
            (.commit, NFSArguments.read(root), .isDirectory),
            (.readlink, NFSArguments.handle(root), .invalidArgument),
        ]
        for (procedure, arguments, status) in calls {
            let answer = try #require(bench.call3(procedure, arguments))
            #expect(answer.status == status.rawValue, "\(procedure)")
            #expect(answer.isWhole)
            #expect(bench.forwards.isEmpty)
        }
        // Between a directory of ours and an export.
        let export = bench.root("/r1")
        let intoOurs = bench.call3(
            .rename, NFSArguments.place(export, "a") + NFSArguments.place(root, "b"))
        #expect(intoOurs?.status == NFSv3Status.readOnly.rawValue)
        let intoExport = bench.call3(
            .link, NFSArguments.handle(root) + NFSArguments.place(export, "b"))
        #expect(intoExport?.status == NFSv3Status.crossDevice.rawValue)
    }

    @Test func `who may not use an export does not see it`() throws {
        let nobody = NFSAccessRule(clients: [.everybody], mode: .none)
        let bench = bench(access: [nobody])
        let homes = bench.root("/homes")
        let list = bench.call3(.readdir, NFSArguments.readdir(homes, count: 4_096))
        #expect(names(list) == [".", "..", "a"])
        #expect(bench.lookUp("b", in: homes)?.status == NFSv3Status.noEntry.rawValue)
    }

    @Test func `a server that is not there, and one that refuses`() throws {
        let bench = bench()
        let root = bench.root("/")
        let server = bench.server("r1")
        bench.servers["r1"] = nil
        #expect(bench.lookUp("r1", in: root)?.status == NFSv3Status.jukebox.rawValue)
        bench.client.transport = .udp
        #expect(bench.lookUp("r1", in: root) == nil)
        bench.client.transport = .tcp
        bench.servers["r1"] = NFSFakeServer(NFSFakeStorage(), path: "/elsewhere")
        #expect(bench.lookUp("r1", in: root)?.status == NFSv3Status.accessDenied.rawValue)
        bench.servers["r1"] = server
        #expect(bench.lookUp("r1", in: root)?.isOK == true)
        // Its file system was made anew: the handle that is known is stale, and is asked for again.
        bench.servers["r1"] = NFSFakeServer(NFSFakeStorage(first: 900), path: "/srv/r1")
        #expect(bench.lookUp("r1", in: root)?.status == NFSv3Status.jukebox.rawValue)
        #expect(bench.lookUp("r1", in: root)?.fileNumbers.first == 900)
    }

    @Test func `without a root export there is none`() {
        let bench = NFSBench.boxes()
        #expect(bench.mount("/") == .failed(.noEntry))
        #expect(bench.mount("/homes") == .failed(.noEntry))
        let root = NFSBench.boxes(hasRoot: true).root("/")
        let answer = bench.call3(.getattr, NFSArguments.handle(root))
        #expect(answer?.status == NFSv3Status.stale.rawValue)
    }

    @Test func `directories and exports come and go with the configuration`() throws {
        let bench = bench()
        let root = bench.root("/")
        let homes = bench.root("/homes")
        let ha = bench.root("/homes/a")
        var settings = NFSBench.settings(
            [("ha", NFSExport(directory: "/a", path: "/srv/ha", index: 2))], hasRoot: true)
        bench.router.update(settings, wallTime: NFSv3Time(seconds: 2_000))
        let list = bench.call3(.readdir, NFSArguments.readdir(root, count: 4_096))
        #expect(names(list) == [".", "..", "a"])
        #expect(
            bench.call3(.getattr, NFSArguments.handle(homes))?.status
                == NFSv3Status.stale.rawValue)
        // The resource is still there, at another place: its handles are right.
        #expect(bench.call3(.getattr, NFSArguments.handle(ha))?.isOK == true)
        settings.exports[0].name = "other"
        bench.servers["other"] = bench.server("ha")
        bench.router.update(settings, wallTime: NFSv3Time(seconds: 3_000))
        #expect(bench.root("/a") == ha)
    }

    // MARK: Version 2

    @Test func `version 2 sees the same`() throws {
        let bench = bench()
        let root = bench.root("/", .one)
        #expect(root == bench.root("/"))
        let list = bench.call2(.readdir, root + NFSArguments.words(0, 4_096))
        #expect(names(list) == [".", "..", "homes", "r1", "r2", "x"])
        let listing3 = bench.call3(.readdir, NFSArguments.readdir(root, count: 4_096))
        #expect(
            list.flatMap(nfsListing)?.entries == listing3.flatMap(nfsListing)?.entries)
        let homes = try #require(bench.call2(.lookup, NFSArguments.place2(root, "homes")))
        #expect(homes.isOK)
        #expect(bench.call2(.lookup, NFSArguments.place2(homes.handle, ".."))?.handle == root)
        let found = try #require(bench.call2(.lookup, NFSArguments.place2(homes.handle, "a")))
        #expect(found.isOK)
        #expect(bench.server("ha").takeLog() == ["MNT", "GETATTR"])
        #expect(found.handle == bench.root("/homes/a", .one))
        #expect(found.fileNumbers == [2])
        #expect(
            bench.call2(.lookup, NFSArguments.place2(found.handle, ".."))?.handle == homes.handle)
        for procedure in [NFSv2Procedure.getattr, .statfs] {
            #expect(bench.call2(procedure, root)?.isOK == true)
        }
        let refused: [(NFSv2Procedure, [UInt8], NFSv2Status)] = [
            (.remove, NFSArguments.place2(root, "r1"), .readOnly),
            (.setattr, root + NFSArguments.nothing2, .readOnly),
            (.read, root + NFSArguments.words(0, 10, 0), .isDirectory),
            (.readlink, root, .isDirectory),
            (.lookup, NFSArguments.place2(root, "nothing"), .noEntry),
        ]
        for (procedure, arguments, status) in refused {
            #expect(bench.call2(procedure, arguments)?.status == status.rawValue)
        }
        // In pages: of version 2, count is all that is behind the status.
        var cookie: UInt64 = 0
        var count = 0
        for _ in 0..<20 {
            let answer = bench.call2(
                .readdir, root + NFSArguments.words(UInt32(cookie), 60))
            let page = try #require(answer.flatMap(nfsListing))
            count += page.entries.count
            cookie = page.entries.last?.cookie ?? cookie
            if page.isAtEnd { break }
        }
        #expect(count == 6)
    }
}
