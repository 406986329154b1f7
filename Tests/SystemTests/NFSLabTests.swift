import Foundation
import Testing

extension SystemTests {
    /// The lab's NFS servers, each asked directly: the redirector does not run.
    @Suite("Lab: NFS servers", .serialized)
    struct NFSLab {
        private let lab = BareLab("nas")
        private let boxes = ["nas1", "nas2", "nas3"]

        private struct Handles: Decodable {
            var ok: Bool
            var roots: [String: String]
            /// By export, by path.
            var files: [String: [String: File]]

            struct File: Decodable {
                var handle: String
                var content: String?
            }
        }

        private struct State: Decodable {
            var processes: [Entry]
            var companions: [Entry]

            struct Entry: Decodable {
                var host: String
                var kind: String
                var pid: Int32
            }
        }

        private var directory: String { "/run/dsr-lab/\(lab.name)" }
        private var output: String { "/tmp/\(lab.name).json" }

        /// tools/nfs-load.py on a host, at the server that runs there.
        private func load(
            _ host: String, export: String, _ words: [String]
        ) async throws -> Program.Result {
            let program = [
                "\(Laboratory.products)/dsr-lab", "exec", lab.name, host, "--",
                "\(Laboratory.root)/tools/nfs-load.py",
            ]
            let place = ["--server", "127.0.0.1", "--export", export, "--output", output]
            return try await Program(program + words + place).result(within: 30)
        }

        private func handles(_ host: String, export: String) async throws -> Handles {
            let result = try await load(host, export: export, ["handles"])
            try #require(result.status == 0, "\(host): \(result.output)")
            let data = try Data(contentsOf: URL(fileURLWithPath: output))
            return try JSONDecoder().decode(Handles.self, from: data)
        }

        /// Whether a host's nfs-ganesha answers a call without work.
        private func answers(_ host: String) async throws -> Bool {
            // rpcinfo waits for longer than a frozen server deserves, and does not mind SIGTERM.
            let ask = [
                "timeout", "-s", "KILL", "1", "rpcinfo", "-T", "udp", "127.0.0.1", "100003", "3",
            ]
            let words = ["\(Laboratory.products)/dsr-lab", "exec", lab.name, host, "--"]
            return try await Program(words + ask).result(within: 10).status == 0
        }

        private func processes() throws -> [State.Entry] {
            let data = try Data(contentsOf: URL(fileURLWithPath: "\(directory)/lab.json"))
            let state = try JSONDecoder().decode(State.self, from: data)
            return state.processes + state.companions
        }

        /// A zombie has no command line either.
        private func isAlive(_ pid: Int32) -> Bool {
            let line = FileManager.default.contents(atPath: "/proc/\(pid)/cmdline")
            return line?.isEmpty == false
        }

        /// Nothing of the lab is left that could be found by its name, and none of its processes.
        private func expectNothingLeft(
            _ entries: [State.Entry], location: SourceLocation = #_sourceLocation
        ) async throws {
            let spaces = try await Program.run(["ip", "netns", "list"])
            #expect(!spaces.contains(lab.name), sourceLocation: location)
            let loops = try await Program.run(["losetup", "-a"])
            #expect(!loops.contains(lab.name), "\(loops)", sourceLocation: location)
            #expect(!FileManager.default.fileExists(atPath: directory), sourceLocation: location)
            for entry in entries {
                #expect(!isAlive(entry.pid), "\(entry.kind) runs", sourceLocation: location)
            }
        }

        @Test func independentBoxesGiveEqualHandlesForDifferentFiles() async throws {
            defer { unlink(output) }
            var entries: [State.Entry] = []
            try await lab.with("fig1-nas") {
                entries = try processes()
                let servers = entries.filter { $0.kind == "ganesha" }
                #expect(servers.map(\.host) == boxes)
                for box in boxes {
                    for transport in ["udp", "tcp"] {
                        let words = [
                            "walk", "--transport", transport, "--entries", "60", "--mib", "2",
                        ]
                        let walk = try await load(box, export: "/vol1", words)
                        #expect(walk.status == 0, "\(box) over \(transport): \(walk.output)")
                    }
                }
                let first = try await handles("nas1", export: "/vol1")
                #expect(first.roots["/vol1"]?.isEmpty == false)
                for (box, export) in [("nas2", "n2"), ("nas3", "n3")] {
                    let other = try await handles(box, export: "/vol1")
                    #expect(other.roots == first.roots)
                    for name in ["box.txt", "files/01", "files/16"] {
                        let mine = try #require(first.files["/vol1"]?[name])
                        let its = try #require(other.files["/vol1"]?[name])
                        #expect(mine.handle == its.handle)
                        #expect(mine.content == "nas1 n1 \(name)\n")
                        #expect(its.content == "\(box) \(export) \(name)\n")
                    }
                }
                // What a box has is seen in its own mounts only.
                let file = "\(directory)/exports/n2.nas2/files/07"
                try await lab.expect(
                    "exec", "--with-mounts", lab.name, "nas2", "--", "cat", file,
                    output: "nas2 n2 files/07")
                #expect(!FileManager.default.fileExists(atPath: file))
            }
            try await expectNothingLeft(entries)
        }

        @Test func serversDieFreezeAndComeBackWithTheirFiles() async throws {
            defer { unlink(output) }
            var entries: [State.Entry] = []
            try await lab.with("fig1-nas") {
                let before = try await handles("nas2", export: "/vol1")
                let freezing = try await lab.expect("service", lab.name, "nas2", "freeze")
                let isFrozen = try await !answers("nas2")
                #expect(isFrozen)
                try await lab.expect("service", lab.name, "nas2", "thaw")
                let isThawed = try await answers("nas2")
                #expect(isThawed)

                let killing = try await lab.expect("service", lab.name, "nas2", "kill")
                #expect(freezing < 0.5 && killing < 0.5)
                let isDead = try await !answers("nas2")
                #expect(isDead)
                try await lab.expect(
                    "service", lab.name, "nas2", "status", status: 1, output: "ENDED")
                try await lab.expect("service", lab.name, "nas2", "start")
                let after = try await handles("nas2", export: "/vol1")
                #expect(after.roots == before.roots)
                #expect(after.files["/vol1"]?["files/07"]?.content == "nas2 n2 files/07\n")

                // With the process that keeps the mounts: the image is mounted anew.
                let running = try processes()
                let keeper = try #require(
                    running.first { $0.host == "nas3" && $0.kind == "rpcbind" })
                try await lab.expect("service", lab.name, "nas3", "stop")
                kill(keeper.pid, SIGKILL)
                try await lab.expect("service", lab.name, "nas3", "start")
                let again = try await handles("nas3", export: "/vol1")
                #expect(again.files["/vol1"]?["files/07"]?.content == "nas3 n3 files/07\n")
                entries = try processes()
            }
            try await expectNothingLeft(entries)
        }

        @Test func serversOfOneDirectoryGiveOneHandle() async throws {
            defer { unlink(output) }
            var entries: [State.Entry] = []
            try await lab.with("fig2-nas") {
                entries = try processes()
                let file = "\(directory)/exports/e3/shared.txt"
                for content in ["first", "second"] {
                    try content.write(toFile: file, atomically: false, encoding: .utf8)
                    var seen: Set<String> = []
                    for server in ["server1", "server2", "server3"] {
                        let found = try await handles(server, export: "/e3")
                        let entry = try #require(found.files["/e3"]?["shared.txt"])
                        #expect(entry.content == content, "\(server)")
                        seen.insert(entry.handle)
                    }
                    #expect(seen.count == 1)
                }
            }
            try await expectNothingLeft(entries)
        }

        @Test(arguments: [
            ("exports: [{name: e, export_id: 0, pseudo: /e}]", "export_id is 1 to 65535"),
            ("exports: [{name: e, export_id: 1, pseudo: e}]", "pseudo is a path below /"),
            (
                "exports: [{name: e, export_id: 1, pseudo: /e, backing: exports/../../etc}]",
                "backing is a path below exports/"
            ),
            (
                "exports: [{name: e, export_id: 1, pseudo: /e, image: true, shared: true}]",
                "it is not shared"
            ),
            (
                "exports: [{name: e, export_id: 1, pseudo: /e, servers: [b]}]",
                "b has no service ganesha"
            ),
            (
                "exports: [{name: e, export_id: 1, pseudo: /e}, {name: f, export_id: 1, pseudo: /f}]",
                "export_id of a: 1 is given twice"
            ),
            ("exports: [{name: e, export: 1, pseudo: /e}]", "exports.export: unknown"),
        ])
        func badExportsAreExplained(text: String, message: String) async throws {
            let path = "/tmp/\(lab.name).yaml"
            let head = "name: x\nhosts: [{name: a}]\nservices: [{host: a, kind: ganesha}]\n"
            try (head + text).write(toFile: path, atomically: true, encoding: .utf8)
            defer { unlink(path) }
            let result = try await lab.attempt("up", path, "--prefix", lab.name)
            #expect(result.status != 0 && result.output.contains(message), "\(result.output)")
        }
    }
}
