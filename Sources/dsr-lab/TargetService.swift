import Foundation
import Glibc

/// tgtd with the targets of a topology.
struct TargetService {
    let state: LabState
    let service: Topology.Service
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
            for (index, target) in targets.enumerated() { try define(target, id: index + 1) }
            try defineAccounts()
        } catch {
            record.signal(SIGKILL)
            throw error
        }
        return record
    }

    /// Ends tgtd as its manual says: no new connections, no targets, then itself.
    func stop(_ record: ProcessRecord) {
        _ = try? administer(["--op", "update", "--mode", "sys", "--name", "State", "-v", "offline"])
        for index in targets.indices {
            _ = try? administer([
                "--op", "delete", "--mode", "target", "--force", "--tid", String(index + 1),
            ])
        }
        _ = try? administer(["--op", "delete", "--mode", "sys"])
        if !record.waitForEnd(seconds: 3) {
            record.signal(SIGKILL)
            _ = record.waitForEnd(seconds: 3)
        }
    }

    private func makeFiles() throws {
        let manager = FileManager.default
        try manager.createDirectory(atPath: state.san, withIntermediateDirectories: true)
        for target in targets {
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
        try administer(["--op", "bind", "--mode", "target", "-I", "ALL"] + tid)
    }

    /// Accounts belong to the whole tgtd; targets are bound to them.
    private func defineAccounts() throws {
        var made: Set<String> = []
        for (index, target) in targets.enumerated() {
            guard let chap = target.chap else { continue }
            let tid = ["--tid", String(index + 1)]
            let incoming = Topology.Account(user: chap.user, secret: chap.secret)
            for (account, flags) in [(incoming, []), (chap.mutual, ["--outgoing"])] {
                guard let account else { continue }
                if made.insert(account.user).inserted {
                    try administer([
                        "--op", "new", "--mode", "account", "--user", account.user, "--password",
                        account.secret,
                    ])
                }
                try administer(
                    ["--op", "bind", "--mode", "account", "--user", account.user] + tid + flags)
            }
        }
    }
}

/// The end of a log, for messages.
func tail(_ path: String) -> String {
    let text = String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
    return text.split(separator: "\n").suffix(10).joined(separator: "\n")
}
