import Foundation
import Synchronization
import Testing

/// Commands of one session, one after the other, until it is stopped.
private final class CommandLoad: @unchecked Sendable {
    struct Outcome {
        var good = 0
        /// Status of commands that were not good.
        var refused: [UInt8] = []
        /// Why it ended early.
        var failure: String?
        /// Seconds of the slowest command.
        var slowest = 0.0
    }

    private let session: RawInitiator
    private let outcome = Mutex(Outcome())
    private let isStopping = Mutex(false)
    private let done = DispatchSemaphore(value: 0)

    init(_ session: RawInitiator) {
        self.session = session
        Thread.detachNewThread { [self] in
            while !isStopping.withLock({ $0 }) {
                let start = Date()
                do {
                    let status = try self.session.testUnitReady().scsiStatus
                    let time = Date().timeIntervalSince(start)
                    outcome.withLock {
                        if status == 0 { $0.good += 1 } else { $0.refused.append(status) }
                        $0.slowest = max($0.slowest, time)
                    }
                } catch {
                    outcome.withLock { $0.failure = "\(error)" }
                    break
                }
                usleep(1_000)
            }
            done.signal()
        }
    }

    var good: Int { outcome.withLock { $0.good } }

    func stop() async -> Outcome {
        isStopping.withLock { $0 = true }
        await withCheckedContinuation { continuation in
            Thread.detachNewThread { [self] in
                done.wait()
                continuation.resume()
            }
        }
        return outcome.withLock { $0 }
    }
}

extension SystemTests {
    /// People move resources and empty servers while clients work.
    @Suite("Operation", .serialized, .lab())
    struct OperationTests {
        private struct ServerStatus: Decodable {
            var name: String
            var state: String
            var resources: [String]
        }
        private struct SessionStatus: Decodable {
            var id: Int
            var server: String?
            var moves: Int
            var isProtected: Bool?
        }

        private func open(_ lab: Laboratory, _ resource: String) throws -> RawInitiator {
            let session = try RawInitiator(lab, host: "client1", address: "10.10.0.100")
            session.setTimeout(seconds: 10)
            let answer = try session.login(target: "iqn.2026-01.lab.dsr:\(resource)")
            try #require(answer.loginStatus == 0)
            // The first command of a session meets a unit attention.
            _ = try session.testUnitReady()
            return session
        }

        private func server(_ lab: Laboratory, _ name: String) async throws -> ServerStatus? {
            try await lab.get([ServerStatus].self, "/servers").first { $0.name == name }
        }

        /// Runs a command while a session of the resource works: no command fails, none is lost.
        private func duringLoad(
            _ lab: Laboratory, _ resource: String, _ words: [[String]]
        ) async throws -> [Program.Result] {
            let load = CommandLoad(try open(lab, resource))
            #expect(await eventually(within: 5) { load.good > 20 })
            var results: [Program.Result] = []
            for command in words {
                results.append(try await lab.control(command))
                let before = load.good
                #expect(await eventually(within: 5) { load.good > before + 20 }, "\(command)")
            }
            let outcome = await load.stop()
            #expect(outcome.failure == nil)
            #expect(outcome.refused.isEmpty)
            #expect(outcome.slowest < 5)
            return results
        }

        @Test func aResourceMovesUnderAnOpenSession() async throws {
            let lab = try Laboratory.here()
            let counter = "dsr_resource_moves_total"
            let stalls = "dsr_session_stall_seconds_count{mode=\"orderly\"}"
            let before = try await lab.metric(counter)
            let stallsBefore = try await lab.metric(stalls)
            let results = try await duringLoad(
                lab, "r1",
                [
                    ["resource", "move", "r1", "server2", "--wait"],
                    ["session", "list", "--json"],
                ])
            #expect(results[0].status == 0, "\(results[0].output)")
            #expect(results[0].output.contains("server2 has confirmed r1"))
            #expect(results[0].output.contains("r1: 1 sessions have moved, 0 have ended"))
            #expect(results[0].output.hasSuffix("done\n"))
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            let sessions = try decoder.decode(
                [SessionStatus].self, from: Data(results[1].output.utf8))
            let session = try #require(sessions.last)
            #expect(session.server == "server2")
            #expect(session.moves == 1)
            #expect(session.isProtected == true)
            #expect(try await lab.assigned("r1") == "server2")
            #expect(try await lab.metric(counter) == before + 1)
            let text = String(decoding: try await lab.request("GET", "/metrics"), as: UTF8.self)
            #expect(text.contains("dsr_resource_assigned{resource=\"r1\",server=\"server2\"} 1\n"))
            #expect(try await lab.metric(stalls) == stallsBefore + 1)
            let back = try await lab.control(["resource", "move", "r1", "server1", "--wait"])
            #expect(back.status == 0, "\(back.output)")
        }

        @Test func aServerIsDrainedAndTakesResourcesAgain() async throws {
            let lab = try Laboratory.here()
            let results = try await duringLoad(
                lab, "r2", [["server", "drain", "server1", "--wait"]])
            #expect(results[0].status == 0, "\(results[0].output)")
            let drained = try await server(lab, "server1")
            #expect(drained?.resources == [])
            #expect(drained?.state == "drained")
            #expect(try await lab.metric("dsr_server_draining{server=\"server1\"}") == 1)
            let again = try await lab.control(["server", "drain", "server1"])
            #expect(again.status == 1 && again.output.contains("undrain server1"))
            let refused = try await lab.control(["resource", "move", "r2", "server1"])
            #expect(refused.status == 1 && refused.output.contains("it is being drained"))
            let undrained = try await lab.control(["server", "undrain", "server1", "--wait"])
            #expect(undrained.status == 0, "\(undrained.output)")
            #expect(try await server(lab, "server1")?.state == "up")
            for resource in ["r1", "r2"] {
                let back = try await lab.control([
                    "resource", "move", resource, "server1", "--wait",
                ])
                #expect(back.status == 0, "\(back.output)")
            }
        }

        /// Another name for server3's address: what it serves is the same.
        @Test func aServerIsAddedUsedAndRemoved() async throws {
            let lab = try Laboratory.here()
            let added = try await lab.control([
                "server", "add", "server9", "--address", "10.20.0.13", "--resource", "r1",
                "--wait",
            ])
            #expect(added.status == 0, "\(added.output)")
            #expect(added.output.contains("change the file too"))
            #expect(try await server(lab, "server9")?.state == "up")
            let twice = try await lab.control([
                "server", "add", "server9", "--address", "10.20.0.13", "--resource", "r1",
            ])
            #expect(twice.status == 1 && twice.output.contains("already"))
            let results = try await duringLoad(
                lab, "r1",
                [
                    ["resource", "move", "r1", "server9", "--wait"],
                    ["server", "remove", "server9"],
                    ["server", "remove", "server9", "--force", "--wait"],
                ])
            #expect(results.map(\.status) == [0, 1, 0], "\(results.map(\.output))")
            #expect(results[1].output.contains("--force"))
            #expect(try await server(lab, "server9") == nil)
            let back = try await lab.assigned("r1")
            #expect(back != "server9")
            if back != "server1" {
                let result = try await lab.control(["resource", "move", "r1", "server1", "--wait"])
                #expect(result.status == 0, "\(result.output)")
            }
        }

        @Test func namesThatAreNotThereAreRefused() async throws {
            let lab = try Laboratory.here()
            for (words, hint) in [
                (["resource", "move", "r99", "server2"], "there are r1, r2"),
                (["resource", "move", "r1", "server99"], "server list"),
                (["resource", "move", "r1", "server1"], "already"),
                (["server", "drain", "server99"], "there is no server server99"),
                (["server", "undrain", "server1"], "is not being drained"),
                (["server", "remove", "server99", "--force"], "there is no server"),
                (["server", "add", "s", "--address", "x", "--resource", "r1"], "addresses"),
                (
                    ["server", "add", "s", "--address", "10.20.0.14", "--resource", "r99"],
                    "there is no resource r99"
                ),
            ] {
                let result = try await lab.control(words)
                #expect(result.status == 1, "\(words): \(result.output)")
                #expect(result.output.contains(hint), "\(words): \(result.output)")
            }
        }

        @Test func balanceTellsLoadsAndPlans() async throws {
            let lab = try Laboratory.here()
            let status = try await lab.control(["balance", "status"])
            #expect(status.status == 0 && status.output.contains("server3"))
            let plan = try await lab.control(["balance", "plan"])
            #expect(plan.status == 0 && plan.output.contains("BEFORE"), "\(plan.output)")
            let on = try await lab.control(["balance", "auto", "on"])
            #expect(on.output.contains("balancing: automatic"), "\(on.output)")
            let off = try await lab.control(["balance", "auto", "off"])
            #expect(off.output.contains("by command only"), "\(off.output)")
        }
    }
}
