import ControlPlane
import Synchronization

/// Answers with fixed values and remembers what it was asked.
final class FakeService: ControlService, ManagementStubs {
    private let log = Mutex<[String]>([])
    var calls: [String] { log.withLock { $0 } }
    func note(_ call: String) { log.withLock { $0.append(call) } }

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
    func volumes() async -> [VolumeModel] {
        note("volumes")
        return []
    }
    func volume(_ name: String) async throws(ControlError) -> VolumeModel {
        note("volume \(name)")
        guard name != "nobody" else { throw ControlError(.notFound, "no volume \(name)") }
        var model = VolumeModel()
        model.name = name
        model.capacity = .max
        return model
    }
    func nfsMounts() async -> [NFSMountModel] {
        note("nfsMounts")
        return []
    }
    func nfsExports() async -> [NFSExportModel] {
        note("nfsExports")
        return []
    }
    func nfsClients() async -> [NFSClientModel] {
        note("nfsClients")
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
}
