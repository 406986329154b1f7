import Foundation
import Glibc

/// tools/nfs2-server.py with the exports of a host: NFS version 2 and MOUNT version 1, with its own
/// portmapper.
struct NFSVersion2Service {
    let state: LabState
    let service: Topology.Service
    let exports: [Topology.Export]
    /// Absolute.
    let program: String

    func start() throws -> ProcessRecord {
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw LabError("\(program): no such program")
        }
        var words = [
            "ip", "netns", "exec", state.namespace(service.host), program, "--portmapper",
        ]
        for export in exports {
            let directory = state.exportDirectory(export, service.host)
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true)
            words += ["--export", "\(export.exportId):\(export.pseudo)=\(directory)"]
        }
        let log = state.log(service.host, "nfs2")
        // What an earlier start has said does not count.
        unlink(log)
        let pid = try Command.start(words, log: log)
        let record = ProcessRecord(host: service.host, kind: "nfs2", pid: pid, log: log)
        do {
            try waitUntilReady(record)
        } catch {
            record.signal(SIGKILL)
            throw error
        }
        return record
    }

    /// It has nothing that must be ended in order.
    func stop(_ record: ProcessRecord) {
        record.signal(SIGTERM)
        if !record.waitForEnd(seconds: 3) {
            record.signal(SIGKILL)
            _ = record.waitForEnd(seconds: 3)
        }
    }

    private func waitUntilReady(_ record: ProcessRecord) throws {
        for _ in 0..<400 {
            if tail(record.log) == "serving" { return }
            guard record.isAlive else { break }
            try Interruption.check()
            usleep(25_000)
        }
        throw LabError(
            "the NFS server of \(service.host) does not come up:\n\(tail(record.log))")
    }
}
