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
