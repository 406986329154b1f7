/// What the API serves: the daemon's engine as the outside sees it. Every method may be called from
/// any task, at any time, several at once; none may block a thread.
public protocol ControlService: ManagementService {
    func status() async -> StatusModel
    func metrics() async -> [MetricFamily]

    // Switch
    func ports() async -> [PortModel]
    func macs() async -> [MACModel]
    /// Forgets learned addresses.
    func flushMACs() async throws(ControlError) -> ChangeModel
    /// - Parameter selector: match in ovs-ofctl syntax; nil: all rules. In order of priority.
    func rules(selector: String?) async throws(ControlError) -> [RuleModel]
    /// Each text is one rule in ovs-ofctl syntax. All or none are added. In an error about the syntax
    /// `line` is the number of the rule from 1, `column` and `length` are characters in its text.
    func addRules(_ texts: [String]) async throws(ControlError) -> ChangeModel
    /// As `ovs-ofctl del-flows`, strict: with `--strict`.
    func deleteRules(selector: String, isStrict: Bool) async throws(ControlError) -> ChangeModel
    /// All rules are replaced by these; rules that stay keep their counters.
    func replaceRules(_ texts: [String]) async throws(ControlError) -> ChangeModel
    func trace(_ request: TraceRequest) async throws(ControlError) -> TraceModel
    /// Exact flows, `limit` at most, from position `offset` on.
    func flows(offset: Int, limit: Int) async throws(ControlError) -> FlowPage

    // Sessions
    func sessions() async -> [SessionModel]
    func session(_ id: UInt64) async throws(ControlError) -> SessionModel
    /// Asks for a change and waits until it is made or refused; answers the session after it.
    func change(session id: UInt64, _ verb: SessionVerb) async throws(ControlError) -> SessionModel
    func resources() async -> [ResourceModel]
    func servers() async -> [ServerModel]
    /// In the order of the configuration.
    func volumes() async -> [VolumeModel]
    func volume(_ name: String) async throws(ControlError) -> VolumeModel

    // NFS; nothing without it.
    /// Oldest first.
    func nfsMounts() async -> [NFSMountModel]
    /// In the order of the configuration.
    func nfsExports() async -> [NFSExportModel]
    /// In the order of their addresses.
    func nfsClients() async -> [NFSClientModel]

    // Operation
    /// Events that are kept, oldest first; only those with a higher sequence number when `after` is
    /// given.
    func events(after: UInt64?) async -> [EventModel]
    func captures() async -> [CaptureModel]
    func startCapture(_ request: CaptureRequest) async throws(ControlError) -> CaptureModel
    /// - Parameter port: as given at the start.
    func stopCapture(port: String) async throws(ControlError) -> CaptureModel
    func reload(_ request: ReloadRequest) async throws(ControlError) -> ReloadModel
}

/// Why a request was refused.
public struct ControlError: Error, Hashable, Sendable {
    public enum Kind: Hashable, Sendable, CaseIterable {
        /// The request is wrong: 400.
        case badRequest
        /// No such session, port, capture: 404.
        case notFound
        /// Not in the present state: 409.
        case conflict
        /// A table is full: 507.
        case limitReached
        /// This version cannot do it: 501.
        case notSupported
        /// Stopping, or not started yet: 503.
        case unavailable
        /// A defect of ours or of the system below: 500.
        case `internal`
    }

    public var kind: Kind
    public var model: ErrorModel

    public init(_ kind: Kind, _ model: ErrorModel) {
        self.kind = kind
        self.model = model
    }

    public init(_ kind: Kind, _ message: String, field: String? = nil, suggestion: String? = nil) {
        self.kind = kind
        model = ErrorModel(message: message, field: field, suggestion: suggestion)
    }

    /// HTTP status code.
    public var status: Int {
        switch kind {
        case .badRequest: 400
        case .notFound: 404
        case .conflict: 409
        case .limitReached: 507
        case .notSupported: 501
        case .unavailable: 503
        case .internal: 500
        }
    }
}

extension ControlError: CustomStringConvertible {
    public var description: String { model.message }
}
