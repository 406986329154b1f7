import Glibc

let usage = """
    usage: traffic serve PORT                the far end of all kinds but those of iSCSI and NFS
           traffic serve-iscsi PORT          that of iSCSI: a target that stores nothing
           traffic serve-nfs PORT MOUNTPORT  that of NFS: a server with an empty directory
           traffic KIND HOST PORT SECONDS [TARGET UNITS]
                                             one run; prints "VALUE CPU_SECONDS_PER_GB". TARGET and UNITS,
                                             as 1,2,3, are of iSCSI
               KIND: bulk1 bulk4 (Gbit/s), rr1 rr16 (1000 requests/s),
                     crr (1000 connections/s), udp (1000 datagrams/s),
                     read256k write256k (Gbit/s of SCSI data), read4k write4k (1000 requests/s),
                     latency4k (us, the median of reads one after the other)
           traffic nfs-udp HOST PORT MOUNTPORT EXPORT SECONDS DEPTH [SOCKETS]
                                             one run with DEPTH calls open at each of SOCKETS (1); prints
                                             "REPLIES HALF MOST AGAIN": 1000 replies/s, what half of the calls
                                             and what 99 of 100 take at most (us), calls that were sent again
           traffic table FILE SUBJECT        medians of lines "PEER KIND VALUE CPU", and the ratios of
                                             SUBJECT's to each other peer's
           traffic require FILE SUBJECT PEER KIND RATIO
                                             fails when that ratio is less
    """

@main struct Traffic {
    static func main() {
        let words = Array(CommandLine.arguments.dropFirst())
        signal(SIGPIPE, SIG_IGN)
        switch (words.first, words.count) {
        case ("serve", 2):
            guard let port = UInt16(words[1]) else { break }
            serve(port: port)
        case ("serve-iscsi", 2):
            guard let port = UInt16(words[1]) else { break }
            serveISCSI(port: port)
        case ("serve-nfs", 3):
            guard let port = UInt16(words[1]), let mountPort = UInt16(words[2]) else { break }
            serveNFS(port: port, mountPort: mountPort)
        case ("nfs-udp", _):
            guard let load = NFSLoad(Array(words.dropFirst())) else { break }
            return print(load.run())
        case ("table", 3): return Results(file: words[1]).printTable(subject: words[2])
        case ("require", 6):
            guard let ratio = Double(words[5]) else { break }
            let isMet = Results(file: words[1]).require(
                ratio, subject: words[2], peer: words[3], kind: words[4])
            exit(isMet ? 0 : 1)
        case (let kind?, 4), (let kind?, 6):
            guard let port = UInt16(words[2]), let seconds = Double(words[3]),
                let result = run(kind, address(words[1], port), seconds, words.dropFirst(4))
            else { break }
            return print("\(result.value) \(result.cpuPerGigabyte)")
        default: break
        }
        report(usage)
        exit(2)
    }

    static func run(
        _ kind: String, _ remote: sockaddr_in, _ seconds: Double, _ session: ArraySlice<String>
    ) -> Measurement? {
        switch kind {
        case "bulk1": bulk(remote, flows: 1, seconds: seconds)
        case "bulk4": bulk(remote, flows: 4, seconds: seconds)
        case "rr1": requests(remote, connections: 1, seconds: seconds)
        case "rr16": requests(remote, connections: 16, seconds: seconds)
        case "crr": connects(remote, seconds: seconds)
        case "udp": datagrams(remote, seconds: seconds)
        default: iscsi(kind, session)?.run(remote, seconds: seconds)
        }
    }

    private static func iscsi(_ kind: String, _ session: ArraySlice<String>) -> ISCSILoad? {
        guard var load = ISCSILoad(kind) else { return nil }
        if let target = session.first, let units = session.last {
            load.target = target
            load.units = units.split(separator: ",").compactMap { UInt16($0) }
        }
        return load.units.isEmpty ? nil : load
    }
}
