import ControlPlane
import StorageProtocols
import Testing

/// One export on two servers in front of the same storage: the bench's server stands for both, since handles, files and
/// file numbers are the same at each.
struct NFSPair {
    let bench: NFSBench
    let root: [UInt8]
    let version: NFSVersion

    init(_ version: NFSVersion = .v3) {
        bench = NFSBench.boxes()
        root = bench.root("/r1", version == .v3 ? .three : .one)
        self.version = version
    }

    var server: NFSFakeServer { bench.server("r1") }
    var storage: NFSFakeStorage { server.storage }

    func place(_ name: String) -> [UInt8] {
        version == .v3 ? NFSArguments.place(root, name) : NFSArguments.place2(root, name)
    }

    @discardableResult
    func lookUp(_ name: String) -> NFSAnswer? {
        bench.call(version == .v3 ? .v3(.lookup) : .v2(.lookup), place(name))
    }

    /// The router learns what time it is at the server.
    func learnClock() {
        let name = "clock\(storage.clock)"
        _ = bench.call3(.create, NFSArguments.create(bench.root("/r1"), name, mode: 0))
    }

    /// What the client gets for a call whose first server has died, with (`isDone`) or without doing it, and what was
    /// sent to the second one.
    func twice(
        _ procedure: NFSProcedure, _ arguments: [UInt8], isDone: Bool, isNameAsked: Bool = false,
        between: () -> Void = {}
    ) throws -> (answer: NFSAnswer, asked: [String]) {
        let call = bench.message(procedure, arguments)
        let sent = bench.sendTwice(
            call, isDone: isDone, isNameAsked: isNameAsked, between: between)
        let found = try #require(sent)
        return (
            NFSAnswer(try #require(found.answer), to: procedure, call: call), found.asked
        )
    }
}
