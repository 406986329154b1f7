import ControlPlane
import Synchronization

/// Answers with fixed values and remembers what it was asked.
final class FakeService: ControlService {
    private let log = Mutex<[String]>([])
    var calls: [String] { log.withLock { $0 } }
    private func note(_ call: String) { log.withLock { $0.append(call) } }

    func status() async -> StatusModel {
        note("status")
        var model = StatusModel()
        model.version = "9.9"
        model.sessionsByState = ["spliced": 3]
        model.isReady = true
        model.rxPackets = .max
        return model
    }
    func metrics() async -> [MetricFamily] {
        note("metrics")
        var family = MetricFamily(name: "dsr_x_total", help: "X.", kind: .counter)
        family.add(UInt64.max, .init("port", "a\"b"))
        return [family]
    }
    func ports() async -> [PortModel] {
        note("ports")
        var model = PortModel()
        model.rxPackets = 7
        return [model]
    }
    func macs() async -> [MACModel] {
        note("macs")
        return []
    }
    func flushMACs() async throws(ControlError) -> ChangeModel {
        note("flushMACs")
        return ChangeModel(count: 4)
    }
    func rules(selector: String?) async throws(ControlError) -> [RuleModel] {
        note("rules \(selector ?? "-")")
        return []
    }
    func addRules(_ texts: [String]) async throws(ControlError) -> ChangeModel {
        note("addRules \(texts)")
        if texts.contains("full") { throw ControlError(.limitReached, "full") }
        if texts.contains("bad") {
            throw ControlError(
                .badRequest,
                ErrorModel(
                    message: "wrong", line: 1, column: 2, length: 3, suggestion: "right",
                    text: "bad"))
        }
        return ChangeModel(count: texts.count)
    }
    func deleteRules(selector: String, isStrict: Bool) async throws(ControlError) -> ChangeModel {
        note("deleteRules \(selector) \(isStrict)")
        return ChangeModel(count: 1)
    }
    func replaceRules(_ texts: [String]) async throws(ControlError) -> ChangeModel {
        note("replaceRules \(texts)")
        return ChangeModel(count: texts.count)
    }
    func trace(_ request: TraceRequest) async throws(ControlError) -> TraceModel {
        note("trace \(request.flow ?? "-") \(request.packet ?? "-") \(request.inPort ?? "-")")
        return TraceModel()
    }
    func flows(offset: Int, limit: Int) async throws(ControlError) -> FlowPage {
        note("flows \(offset) \(limit)")
        return FlowPage()
    }
    func sessions() async -> [SessionModel] {
        note("sessions")
        return []
    }
    func session(_ id: UInt64) async throws(ControlError) -> SessionModel {
        note("session \(id)")
        guard id == 5 else { throw ControlError(.notFound, "no session \(id)") }
        var model = SessionModel()
        model.id = id
        return model
    }
    func change(session id: UInt64, _ verb: SessionVerb) async throws(ControlError) -> SessionModel
    {
        note("change \(id) \(verb.rawValue)")
        guard verb != .close else { throw ControlError(.conflict, "not now") }
        return SessionModel()
    }
    func resources() async -> [ResourceModel] {
        note("resources")
        return []
    }
    func servers() async -> [ServerModel] {
        note("servers")
        return []
    }
    func events(after: UInt64?) async -> [EventModel] {
        note("events \(after.map { "\($0)" } ?? "-")")
        return []
    }
    func captures() async -> [CaptureModel] {
        note("captures")
        return []
    }
    func startCapture(_ request: CaptureRequest) async throws(ControlError) -> CaptureModel {
        note("startCapture \(request.port) \(request.file) \(request.count ?? 0)")
        return CaptureModel()
    }
    func stopCapture(port: String) async throws(ControlError) -> CaptureModel {
        note("stopCapture \(port)")
        return CaptureModel()
    }
    func reload(_ request: ReloadRequest) async throws(ControlError) -> ReloadModel {
        note("reload \(request.dryRun)")
        throw ControlError(.notSupported, "no reload")
    }

    // MARK: Management

    func move(resource: String, to server: String) async throws(ControlError) -> OperationModel {
        note("move \(resource) \(server)")
        return try operation("\(resource) is being moved to \(server)", of: resource)
    }
    func change(server: String, _ verb: ServerVerb) async throws(ControlError) -> OperationModel {
        note("\(verb.rawValue) \(server)")
        return try operation("server \(server): \(verb.rawValue)", of: server)
    }
    func addServer(_ request: ServerRequest) async throws(ControlError) -> OperationModel {
        note(
            "addServer \(request.name) \(request.addresses) \(request.port ?? 0) "
                + "\(request.resources) \(request.isSpare ?? false) \(request.weight ?? 0)")
        return try operation("server \(request.name) is added", of: request.name)
    }
    func removeServer(_ name: String, force: Bool) async throws(ControlError) -> OperationModel {
        note("removeServer \(name) \(force)")
        return try operation("server \(name) is removed", of: name)
    }
    func balance() async -> BalanceModel {
        note("balance")
        var model = BalanceModel()
        model.reason = "even enough"
        model.loads = [ServerLoadModel(server: "s1", before: 200, after: 200)]
        return model
    }
    func balancePlan() async -> BalancePlanModel {
        note("balancePlan")
        var model = BalancePlanModel()
        model.moves = [MoveModel(resource: "r1", from: "s1", to: "s2")]
        model.loads = [
            ServerLoadModel(server: "s1", before: 700, after: 400.25),
            ServerLoadModel(server: "s2", before: 100, after: 399.75),
        ]
        model.reason = "1 move brings the highest load from 700 to 400"
        return model
    }
    func applyBalance(_ request: BalanceRequest) async throws(ControlError) -> OperationModel {
        note("applyBalance \(request.moves.map { "\($0.resource) \($0.from) \($0.to)" })")
        return try operation("1 move is made", of: request.moves.first?.resource ?? "")
    }
    func setAutomaticBalance(_ isOn: Bool) async throws(ControlError) -> BalanceModel {
        note("setAutomaticBalance \(isOn)")
        var model = BalanceModel()
        model.isAutomatic = isOn
        return model
    }

    private func operation(
        _ message: String, of name: String
    ) throws(ControlError) -> OperationModel {
        guard name != "nobody" else {
            throw ControlError(.notFound, "there is no \(name)", suggestion: "there are others")
        }
        var model = OperationModel()
        model.message = message
        model.change = 7
        model.notes = ["a note"]
        return model
    }
}
