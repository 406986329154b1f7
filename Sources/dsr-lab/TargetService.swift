import Foundation
import Glibc

/// tgtd with the targets of a topology.
struct TargetService {
    let state: LabState
    let service: Topology.Service
    /// Also those that are out of reach now: a target has the same number at all times.
    let all: [Topology.Target]
    /// Those that are served now.
    let targets: [Topology.Target]

    private var control: [String: String] { ["TGT_IPC_SOCKET": state.targetSocket(service.host)] }

    func start() throws -> ProcessRecord {
        // Control sockets are not part of a network namespace: each tgtd gets a path of its own.
        let path = state.targetSocket(service.host) + ".0"
        guard path.utf8.count < 100 else {
            throw LabError("\(path) is too long for a socket; name a shorter --state")
        }
        unlink(path)
        unlink(path + ".lock")
        try makeFiles()
        let log = state.log(service.host, "tgtd")
        let port = service.port ?? 3260
        let pid = try Command.start(
            [
                "ip", "netns", "exec", state.namespace(service.host), "tgtd", "-f", "--iscsi",
                "portal=0.0.0.0:\(port),portal=[::]:\(port)",
            ], log: log, environment: control)
        let record = ProcessRecord(host: service.host, kind: "tgtd", pid: pid, log: log)
        do {
            try waitUntilReady(record)
            try defineAccounts()
            for target in targets { try define(target, id: number(target)) }
        } catch {
            record.signal(SIGKILL)
            throw error
        }
        return record
    }

    /// Ends tgtd as its manual says: no new connections, no targets, then itself.
    func stop(_ record: ProcessRecord) {
        _ = try? administer(["--op", "update", "--mode", "sys", "--name", "State", "-v", "offline"])
        for target in targets { _ = try? delete(target) }
        _ = try? administer(["--op", "delete", "--mode", "sys"])
        if !record.waitForEnd(seconds: 3) {
            record.signal(SIGKILL)
            _ = record.waitForEnd(seconds: 3)
        }
    }

    private func number(_ target: Topology.Target) -> Int {
        (all.firstIndex { $0.name == target.name } ?? 0) + 1
    }

    /// Sessions of the target end. Deleting by force alone leaves half of a target behind when requests are
    /// at the disk: so nobody comes in any more, connections are closed, the last requests end.
    private func delete(_ target: Topology.Target) throws {
        let tid = ["--tid", String(number(target))]
        _ = try? administer(["--op", "unbind", "--mode", "target", "-I", "ALL"] + tid)
        let deadline = Date().addingTimeInterval(2)
        while true {
            try closeConnections(tid)
            let unit = ["--op", "delete", "--mode", "logicalunit", "--lun", String(target.lun)]
            do {
                try administer(unit + tid)
                break
            } catch {
                guard Date() < deadline else { throw error }
            }
            usleep(2_000)
        }
        try administer(["--op", "delete", "--mode", "target", "--force"] + tid)
    }

    /// Lines are `Session: 1` and below it `Connection: 0`.
    private func closeConnections(_ tid: [String]) throws {
        var session = Substring()
        let list = try administer(["--op", "show", "--mode", "conn"] + tid)
        for line in list.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 2 else { continue }
            if words[0] == "Session:" { session = words[1] }
            guard words[0] == "Connection:" else { continue }
            // It may have ended by itself in between.
            _ = try? administer(
                ["--op", "delete", "--mode", "conn", "--sid", String(session), "--cid"]
                    + [String(words[1])] + tid)
        }
    }

    /// Units that went out of reach while tgtd runs.
    func remove(_ names: Set<String>) throws {
        for target in all where names.contains(target.name) { try delete(target) }
    }

    /// Units that came into reach while tgtd runs.
    func add(_ names: Set<String>) throws {
        for target in all where names.contains(target.name) {
            try define(target, id: number(target))
        }
    }

    private func makeFiles() throws {
        let manager = FileManager.default
        try manager.createDirectory(atPath: state.san, withIntermediateDirectories: true)
        for target in all {
            let path = "\(state.san)/\(target.backing)"
            if manager.fileExists(atPath: path) { continue }
            let descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
            defer { close(descriptor) }
            guard descriptor >= 0, ftruncate(descriptor, target.sizeMib << 20) == 0 else {
                throw LabError("\(path): \(Command.reason(errno))")
            }
        }
    }

    private func waitUntilReady(_ record: ProcessRecord) throws {
        for _ in 0..<200 {
            let answer = try Command.attempt(
                ["tgtadm", "--op", "show", "--mode", "sys"], environment: control)
            if answer.status == 0 { return }
            guard record.isAlive else { break }
            try Interruption.check()
            usleep(25_000)
        }
        throw LabError("tgtd of \(service.host) does not come up:\n\(tail(record.log))")
    }

    @discardableResult
    private func administer(_ words: [String]) throws -> String {
        try Command.run(["tgtadm", "--lld", "iscsi"] + words, environment: control)
    }

    private func define(_ target: Topology.Target, id: Int) throws {
        let tid = ["--tid", String(id)]
        let lun = ["--lun", String(target.lun)]
        try administer(["--op", "new", "--mode", "target", "-T", target.iqn] + tid)
        try administer(
            ["--op", "new", "--mode", "logicalunit", "-b", "\(state.san)/\(target.backing)"]
                + tid + lun)
        let identity = [
            "vendor_id=\(target.vendor)", "product_id=\(target.product)",
            "product_rev=\(target.revision)", "scsi_id=\(target.scsiId)",
            "scsi_sn=\(target.serial)", "thin_provisioning=1",
        ]
        try administer(
            [
                "--op", "update", "--mode", "logicalunit", "--params",
                identity.joined(separator: ","),
            ] + tid + lun)
        for (name, value) in (target.parameters ?? [:]).sorted(by: { $0.key < $1.key }) {
            try administer(
                ["--op", "update", "--mode", "target", "--name", name, "-v", value] + tid)
        }
        try bindAccounts(target)
        try administer(["--op", "bind", "--mode", "target", "-I", "ALL"] + tid)
    }

    /// Accounts belong to the whole tgtd, and outlive targets.
    private func defineAccounts() throws {
        var made: Set<String> = []
        for account in all.compactMap(\.chap).flatMap(\.accounts)
        where made.insert(account.user).inserted {
            try administer([
                "--op", "new", "--mode", "account", "--user", account.user, "--password",
                account.secret,
            ])
        }
    }

    private func bindAccounts(_ target: Topology.Target) throws {
        for (index, account) in (target.chap?.accounts ?? []).enumerated() {
            try administer(
                [
                    "--op", "bind", "--mode", "account", "--user", account.user, "--tid",
                    String(number(target)),
                ] + (index == 0 ? [] : ["--outgoing"]))
        }
    }
}

/// The end of a log, for messages.
func tail(_ path: String) -> String {
    let text = String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
    return text.split(separator: "\n").suffix(10).joined(separator: "\n")
}
