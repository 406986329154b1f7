/// A parser, or a state machine, and how to feed it.
struct Target: Sendable {
    let name: String
    let about: String
    /// One execution. Returns a finding: something that must not be, other than a crash.
    let run: @Sendable (inout SeededGenerator) throws -> String?

    static let all = [
        Target(name: "frames", about: "frames through the pipeline", run: runFrames),
        Target(
            name: "splice", about: "segments of a spliced session, messages tracked", run: runSplice
        ),
        Target(name: "capture", about: "capture files", run: runCapture),
        Target(name: "iscsi", about: "iSCSI stream: PDU reader, login, session", run: runISCSI),
        Target(name: "initiator", about: "answers of a server to our login", run: runInitiator),
        Target(name: "text", about: "iSCSI text and values", run: runISCSIText),
        Target(name: "records", about: "streams of RPC in records", run: runRecords),
        Target(
            name: "mount", about: "calls of the portmapper and of MOUNT, answers of MOUNT",
            run: runMount),
        Target(name: "nfs", about: "calls and replies of NFS 2 and 3", run: runNFS),
        Target(
            name: "nfs-router", about: "calls of NFS and servers' replies through the router",
            run: runNFSRouter),
        Target(
            name: "datagrams", about: "calls and replies of NFS in datagrams and fragments",
            run: runDatagrams),
        Target(name: "rules", about: "rule text", run: runRules),
        Target(name: "yaml", about: "configuration files", run: runConfiguration),
        Target(
            name: "announcement", about: "announcements of agents, listings of tgtadm",
            run: runAnnouncement),
        Target(
            name: "exporter", about: "HTTP answers and metrics of node_exporter", run: runExporter),
        Target(name: "api", about: "bodies of API requests", run: runAPI),
    ]
}
