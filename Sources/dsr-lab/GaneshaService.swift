import Foundation
import Glibc

/// nfs-ganesha with the exports of a host, and what it cannot be without: a portmapper, and for locks a status
/// monitor.
///
/// The portmapper's process keeps the mounts that belong to the host: a /run of its own, where portmappers have
/// their socket, a /var/lib/nfs, and the images of exports. It goes on when nfs-ganesha ends: so an image stays
/// mounted, with all that was written to it, while the server is dead.
struct GaneshaService {
    let state: LabState
    let service: Topology.Service
    let exports: [Topology.Export]
    /// Portmapper and status monitor of earlier starts.
    let companions: [ProcessRecord]

    struct Started {
        var server: ProcessRecord
        var companions: [ProcessRecord]
    }

    private var host: String { service.host }
    private var inNamespace: [String] { ["ip", "netns", "exec", state.namespace(host)] }

    func start() throws -> Started {
        let old = companions.first { $0.kind == "rpcbind" && $0.isAlive }
        let portmapper = try old ?? startPortmapper()
        var monitor: ProcessRecord?
        do {
            try waitFor(portmapper, "its mounts or rpcbind do") {
                try succeeds(["rpcinfo", "-p", "127.0.0.1"])
            }
            if service.locks == true { monitor = try startMonitor(portmapper) }
            let server = try startServer(portmapper)
            return Started(server: server, companions: [portmapper] + (monitor.map { [$0] } ?? []))
        } catch {
            monitor?.signal(SIGKILL)
            if old == nil { portmapper.signal(SIGKILL) }
            throw error
        }
    }

    func stop(_ record: ProcessRecord) {
        record.signal(SIGTERM)
        if !record.waitForEnd(seconds: 10) {
            record.signal(SIGKILL)
            _ = record.waitForEnd(seconds: 3)
        }
    }

    // MARK: Parts

    /// $1 lab's directory, $2 the host's folder in it, then for each image: itself, where it belongs, what its
    /// files are to say. The lab's directory may be in /run itself: what is mounted there would hide it.
    private static let mounts = #"""
        set -e
        cd "$1"
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir -p "$1"
        mount --no-canonicalize --rbind . "$1"
        cd "$1"
        mkdir -p "$2/state" /run/rpcbind /run/ganesha
        mount --bind "$2/state" /var/lib/nfs
        shift 2
        while [ $# -gt 0 ]; do
            mount -t ext4 -o loop "$1" "$2"
            chmod 777 "$2"
            if [ ! -s "$2/box.txt" ]; then
                for file in "$2/box.txt" "$2"/files/*; do echo "$3 ${file#"$2/"}" > "$file"; done
            fi
            shift 3
        done
        exec rpcbind -f
        """#

    private func startPortmapper() throws -> ProcessRecord {
        let images = ExportImages(state: state)
        var words = [
            "sh", "-c", Self.mounts, "mounts", state.directory, state.nfsFolder(host),
        ]
        for export in exports {
            let directory = state.exportDirectory(export, host)
            try makeDirectory(directory)
            guard export.image == true else { continue }
            let image = try images.make(export, for: host)
            words += [image, directory, "\(host) \(export.name)"]
        }
        let log = state.log(host, "rpcbind")
        let pid = try Command.start(inNamespace + words, log: log)
        return ProcessRecord(host: host, kind: "rpcbind", pid: pid, log: log)
    }

    /// What happens when a machine starts: clients that had locks are told that they are gone.
    private static let monitoring = #"""
        rm -f /run/sm-notify.pid /run/rpc.statd.pid
        mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak
        touch /var/lib/nfs/state
        chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state
        sm-notify -f -m 1
        exec rpc.statd -F -L -p 32765
        """#

    private func startMonitor(_ portmapper: ProcessRecord) throws -> ProcessRecord {
        if let old = companions.first(where: { $0.kind == "statd" }) {
            old.signal(SIGKILL)
            _ = old.waitForEnd(seconds: 3)
        }
        let log = state.log(host, "statd")
        let pid = try Command.start(
            inside(portmapper) + ["sh", "-c", Self.monitoring], log: log)
        let record = ProcessRecord(host: host, kind: "statd", pid: pid, log: log)
        do {
            try waitFor(record, "rpc.statd does") {
                try succeeds(["rpcinfo", "-T", "udp", "127.0.0.1", "100024", "1"])
            }
        } catch {
            record.signal(SIGKILL)
            throw error
        }
        return record
    }

    private func startServer(_ portmapper: ProcessRecord) throws -> ProcessRecord {
        let log = state.log(host, "ganesha")
        let file = state.ganeshaConfiguration(host)
        try GaneshaConfiguration(state: state, service: service, exports: exports).text
            .write(toFile: file, atomically: true, encoding: .utf8)
        // The epoch is the write verifier. Two servers that start in one second would have the same by chance.
        let milliseconds = Int(Date().timeIntervalSince1970 * 1000) & 0x7fff_ffff
        let pid = try Command.start(
            inside(portmapper) + [
                "ganesha.nfsd", "-F", "-L", log, "-f", file, "-p", "/run/ganesha/pid", "-E",
                String(service.epoch ?? milliseconds),
            ], log: log)
        let record = ProcessRecord(host: host, kind: "ganesha", pid: pid, log: log)
        do {
            try waitFor(record, "nfs-ganesha does") {
                for words in [["tcp", "100003"], ["udp", "100003"], ["udp", "100005"]] {
                    let call = ["rpcinfo", "-T", words[0], "127.0.0.1", words[1], "3"]
                    guard try succeeds(call) else { return false }
                }
                return true
            }
            try checkExports(record)
        } catch {
            record.signal(SIGKILL)
            throw error
        }
        SocketBuffers.enlarge(pid, udpPort: 2049, octets: 4 << 20)
        return record
    }

    /// An export with a mistake is left out by nfs-ganesha, which runs all the same.
    private func checkExports(_ record: ProcessRecord) throws {
        let list = try Command.run(inNamespace + ["showmount", "--no-headers", "-e", "127.0.0.1"])
        let shown = list.split(separator: "\n").map { String($0.prefix { $0 != " " }) }
        let missing = exports.map(\.pseudo).filter { !shown.contains($0) }
        guard missing.isEmpty else {
            throw LabError(
                "nfs-ganesha of \(host) does not serve \(missing.joined(separator: ", ")):\n"
                    + tail(record.log))
        }
    }

    // MARK: Helpers

    /// In the network and the mounts of the host.
    private func inside(_ portmapper: ProcessRecord) -> [String] {
        ["nsenter", "--target", String(portmapper.pid), "--mount", "--net"]
    }

    private func succeeds(_ words: [String]) throws -> Bool {
        try Command.attempt(inNamespace + words).status == 0
    }

    private func waitFor(
        _ record: ProcessRecord, _ what: String, until isReady: () throws -> Bool
    ) throws {
        for _ in 0..<400 {
            if try isReady() { return }
            guard record.isAlive else { break }
            try Interruption.check()
            usleep(25_000)
        }
        throw LabError("\(host): \(what) not come up:\n\(tail(record.log))")
    }

    /// Anybody may write: who may do what is not the lab's matter.
    private func makeDirectory(_ path: String) throws {
        let manager = FileManager.default
        if manager.fileExists(atPath: path) { return }
        try manager.createDirectory(atPath: path, withIntermediateDirectories: true)
        chmod(path, 0o777)
    }
}
