import ControlPlane
import DataPlane
import StorageProtocols
import Testing

/// Two exports with shared handles, whose servers have different file systems of one storage cluster: a handle of the
/// one is none at the other.
private func bench(first: UInt64 = 1_000) -> NFSBench {
    let servers = [
        NFSFakeServer(NFSFakeStorage(fileSystem: 70), path: "/r1"),
        NFSFakeServer(NFSFakeStorage(fileSystem: 71, first: first), path: "/r2"),
    ]
    return NFSBench(
        NFSBench.settings([
            ("r1", NFSExport(directory: "/r1", handles: .shared)),
            ("r2", NFSExport(directory: "/r2", handles: .shared)),
        ]), ["r1": servers[0], "r2": servers[1]])
}

@Suite struct NFSResolutionTests {
    @Test func `shared handles pass as they are, and are known when they come back`() throws {
        let bench = bench()
        for name in ["r1", "r2"] {
            let server = bench.server(name)
            server.storage.put("dir/file", data: Array(name.utf8))
            let root = bench.root("/\(name)")
            #expect(root == server.handle(server.storage.root))
            let directory = try #require(bench.lookUp("dir", in: root)).handle
            let plus = try #require(
                bench.call3(.readdirplus, NFSArguments.readdirplus(directory, count: 4_096)))
            let file = try #require(plus.handles.first)
            #expect(bench.call3(.read, NFSArguments.read(file))?.data == Array(name.utf8))
            #expect(bench.forwards.first?.resource == name)
            #expect(bench.asked.isEmpty)
            // Their file systems are as servers tell them.
            #expect(Set(plus.fileSystems) == [server.storage.fileSystem])
        }
        #expect(bench.router.counters.resolutions == 0)
    }

    @Test(arguments: NFSVersion.allCases)
    func `a handle of before a restart is asked for, once`(version: NFSVersion) throws {
        let bench = bench()
        let number = bench.server("r2").storage.put("file")
        let handle = bench.server("r2").handle(number, version)
        let call = {
            version == .v3
                ? bench.call3(.getattr, NFSArguments.handle(handle))
                : bench.call2(.getattr, handle)
        }
        #expect(call()?.isOK == true)
        #expect(bench.asked.map(\.resource) == ["r1", "r2"])
        #expect(bench.asked.allSatisfy { $0.program == NFSProgram.number })
        #expect(bench.forwards.map(\.resource) == ["r2"])
        #expect(call()?.isOK == true)
        #expect(bench.asked.isEmpty)
        #expect(bench.router.counters.resolutions == 1)
    }

    @Test func `a handle that nobody knows is not asked for again and again`() throws {
        let bench = bench()
        let stale = NFSv3Status.stale.rawValue
        let handle = bench.server("r1").handle(99)
        #expect(bench.call3(.getattr, NFSArguments.handle(handle))?.status == stale)
        #expect(bench.asked.count == 2)
        #expect(bench.call3(.getattr, NFSArguments.handle(handle))?.status == stale)
        #expect(bench.asked.isEmpty)
        bench.now += 6_000_000_000
        #expect(bench.call3(.getattr, NFSArguments.handle(handle))?.status == stale)
        #expect(bench.asked.count == 2)
    }

    @Test func `when not all have answered nobody knows`() throws {
        let bench = bench()
        let handle = bench.server("r2").handle(1_000)
        let server = bench.server("r2")
        bench.servers["r2"] = nil
        let arguments = NFSArguments.handle(handle)
        #expect(bench.call3(.getattr, arguments)?.status == NFSv3Status.jukebox.rawValue)
        let handle2 = server.handle(1_000, .v2)
        #expect(bench.call2(.getattr, handle2)?.status == NFSv2Status.ioError.rawValue)
        bench.client.transport = .udp
        #expect(bench.call3(.getattr, arguments) == nil)
        // It is there again.
        bench.servers["r2"] = server
        #expect(bench.call3(.getattr, arguments)?.isOK == true)
        // One that is there has it: the others do not matter.
        bench.servers["r2"] = nil
        let own = NFSArguments.handle(bench.server("r1").handle(2))
        #expect(bench.call3(.getattr, own)?.isOK == true)
    }

    @Test func `both handles of a call can be unknown`() throws {
        let bench = bench()
        let storage = bench.server("r2").storage
        let number = storage.put("a/x")
        let b = storage.put("b", .directory)
        let a = try #require(storage.find("a"))
        let arguments =
            NFSArguments.place(bench.server("r2").handle(a), "x")
            + NFSArguments.place(bench.server("r2").handle(b), "y")
        #expect(bench.call3(.rename, arguments)?.isOK == true)
        #expect(storage.find("b/y") == number)
        // And the name that is to go.
        #expect(bench.router.counters.resolutions == 3)
        let other = NFSArguments.place(bench.server("r1").handle(2), "y")
        let across = NFSArguments.place(bench.server("r2").handle(b), "y") + other
        #expect(bench.call3(.rename, across)?.status == NFSv3Status.crossDevice.rawValue)
    }

    @Test func `servers that all have the file are told apart by its file system`() throws {
        // In front of one storage: each server has the files of both exports.
        let storage = NFSFakeStorage(fileSystem: 70)
        let settings = NFSBench.settings([
            ("r1", NFSExport(directory: "/r1", handles: .shared)),
            ("r2", NFSExport(directory: "/r2", handles: .shared)),
        ])
        let servers = [
            "r1": NFSFakeServer(storage, path: "/r1"), "r2": NFSFakeServer(storage, path: "/r2"),
        ]
        let number = storage.put("file")
        let handle = NFSArguments.handle(NFSFakeServer(storage, path: "/").handle(number))
        // Nothing is known yet: the first that has it serves it.
        let first = NFSBench(settings, servers)
        #expect(first.call3(.getattr, handle)?.isOK == true)
        #expect(first.forwards.map(\.resource) == ["r1"])
        // The second one was seen to have this file system.
        let second = NFSBench(settings, servers)
        let root = second.root("/r2")
        #expect(second.call3(.getattr, NFSArguments.handle(root))?.isOK == true)
        #expect(second.call3(.getattr, handle)?.isOK == true)
        #expect(second.forwards.map(\.resource) == ["r2"])
    }

    @Test(arguments: NFSVersion.allCases)
    func `servers that all have the file are told apart by the handles of their roots`(
        version: NFSVersion
    ) throws {
        let storage = NFSFakeStorage(fileSystem: 70)
        var servers: [String: NFSFakeServer] = [:]
        for (mark, name) in ["r1", "r2", "r3"].enumerated() {
            servers[name] = NFSFakeServer(storage, path: "/\(name)")
            servers[name]?.mark = UInt8(mark + 1)
        }
        let bench = NFSBench(
            NFSBench.settings(
                ["r1", "r2", "r3"].map {
                    ($0, NFSExport(directory: "/\($0)", handles: .shared))
                }), servers)
        func serves(_ number: UInt64) -> String? {
            let handle = bench.server("r2").handle(number, version)
            let answer =
                version == .v3
                ? bench.call3(.getattr, NFSArguments.handle(handle))
                : bench.call2(.getattr, handle)
            return answer?.isOK == true ? bench.forwards.first?.resource : nil
        }
        let first = storage.put("first")
        let second = storage.put("second")
        #expect(serves(first) == "r2")
        #expect(bench.asked.map(\.program).suffix(3).allSatisfy { $0 == MountProtocol.program })
        // Their roots are known now.
        #expect(serves(second) == "r2")
        #expect(bench.asked.count == 3)
    }

    @Test func `shared and distinct exports side by side`() throws {
        let shared = NFSFakeServer(NFSFakeStorage(fileSystem: 1), path: "/r1")
        let distinct = NFSFakeServer(NFSFakeStorage(fileSystem: 1), path: "/r2")
        let bench = NFSBench(
            NFSBench.settings([
                ("r1", NFSExport(directory: "/r1", handles: .shared)),
                ("r2", NFSExport(directory: "/r2", handles: .distinct)),
            ]), ["r1": shared, "r2": distinct])
        shared.storage.put("file", data: [1])
        distinct.storage.put("file", data: [2])
        for (name, octet) in [("r1", 1), ("r2", 2)] as [(String, UInt8)] {
            let root = bench.root("/\(name)")
            let file = try #require(bench.lookUp("file", in: root)).handle
            #expect(bench.call3(.read, NFSArguments.read(file))?.data == [octet])
        }
        // Only the shared ones are asked.
        let number = shared.storage.put("later")
        let call = NFSArguments.handle(shared.handle(number))
        #expect(bench.call3(.getattr, call)?.isOK == true)
        #expect(bench.asked.map(\.resource) == ["r1"])
    }

    @Test func `answers that are none`() throws {
        let bench = bench()
        let call = bench.message(.v3(.getattr), NFSArguments.handle([0x43, 9, 9, 9]))
        let decision = bench.router.take(call, from: bench.client, now: bench.now)
        guard case .resolve(let resolution) = decision else {
            Issue.record("is not asked for")
            return
        }
        let refused = RPCMessage.reply(xid: 0, refusal: .programUnavailable)
        for replies in [[], [nil], [nil, nil], [[], [1, 2]], [refused, refused]] as [[[UInt8]?]] {
            guard
                case .answer(let reply) = bench.router.take(
                    replies, for: resolution, now: bench.now)
            else {
                Issue.record("is not answered")
                continue
            }
            let answer = NFSAnswer(reply, to: .v3(.getattr), call: call)
            #expect(answer.status == NFSv3Status.jukebox.rawValue)
        }
    }
}
