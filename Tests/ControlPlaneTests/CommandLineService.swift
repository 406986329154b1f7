import ControlPlane
import DataPlane
import Foundation
import Synchronization

/// A daemon's API with known values, which notes what it was asked.
final class CommandLineService: ControlService, ManagementStubs {
    struct Asked: Sendable {
        var calls: [String] = []
        var events: [EventModel] = []
        var lastEvent: UInt64 = 0
    }
    let asked = Mutex(Asked())

    func note(_ call: String) { asked.withLock { $0.calls.append(call) } }
    var calls: [String] { asked.withLock { $0.calls } }

    func addEvent(_ kind: String) {
        add { event in
            event.kind = kind
            event.message = "about \(kind)"
        }
    }

    func add(_ fill: (inout EventModel) -> Void) {
        asked.withLock { state in
            var event = EventModel()
            state.lastEvent += 1
            event.sequence = state.lastEvent
            event.timeS = 1_700_000_000.25
            fill(&event)
            state.events.append(event)
        }
    }

    func forgetEvents(keepingNumbers: Bool = false) {
        asked.withLock { state in
            state.events = []
            if !keepingNumbers { state.lastEvent = 0 }
        }
    }

    func status() async -> StatusModel {
        var model = StatusModel()
        model.version = "9.8.7"
        model.ports = 2
        model.portsUp = 1
        model.drops = ["noRule": 3, "tooBig": 1]
        return model
    }
    func metrics() async -> [MetricFamily] { [] }

    func ports() async -> [PortModel] {
        ["client0", "storage0"].enumerated().map { index, name in
            var port = PortModel()
            port.number = UInt16(index + 1)
            port.name = name
            port.device = "eth\(index)"
            port.kind = "packet"
            port.isUp = index == 0
            port.rxPackets = UInt64(1_000_000 * index)
            return port
        }
    }

    func macs() async -> [MACModel] { [] }
    func flushMACs() async throws(ControlError) -> ChangeModel { ChangeModel(count: 4) }

    func rules(selector: String?) async throws(ControlError) -> [RuleModel] {
        note("rules \(selector ?? "-")")
        var rule = RuleModel()
        rule.match = "tcp,nw_dst=10.0.0.1"
        rule.actions = "output:2"
        rule.priority = 100
        rule.cookie = "0x2a"
        rule.nPackets = 7
        rule.nBytes = 700
        rule.durationS = 1.5
        rule.idleTimeoutS = 60
        return [rule]
    }

    private func parse(_ texts: [String]) throws(ControlError) {
        for (index, text) in texts.enumerated() {
            do throws(RuleSyntaxError) {
                _ = try RuleSyntax.parse(text)
            } catch {
                throw ControlError(
                    .badRequest,
                    ErrorModel(
                        message: error.message, line: index + 1, column: error.column,
                        length: error.length, suggestion: error.suggestion, text: error.text))
            }
        }
    }

    func addRules(_ texts: [String]) async throws(ControlError) -> ChangeModel {
        try parse(texts)
        note("add \(texts)")
        return ChangeModel(count: texts.count)
    }

    func deleteRules(selector: String, isStrict: Bool) async throws(ControlError) -> ChangeModel {
        note("delete \(selector) \(isStrict)")
        return ChangeModel(count: 5)
    }

    func replaceRules(_ texts: [String]) async throws(ControlError) -> ChangeModel {
        try parse(texts)
        note("replace \(texts)")
        return ChangeModel(count: texts.count)
    }

    func trace(_ request: TraceRequest) async throws(ControlError) -> TraceModel {
        note("trace \(request.inPort ?? "-") \(request.packet ?? "-")")
        var model = TraceModel()
        model.steps = ["one step"]
        return model
    }

    /// Three flows, two a page.
    func flows(offset: Int, limit: Int) async throws(ControlError) -> FlowPage {
        note("flows \(offset)")
        var page = FlowPage()
        page.total = 3
        page.offset = offset
        page.flows = (0..<3).dropFirst(offset).prefix(2).map { index in
            var flow = FlowModel()
            flow.protocol = "tcp"
            flow.source = index == 2 ? "fd00::1" : "10.0.0.1"
            flow.sourcePort = UInt16(40_000 + index)
            flow.destination = index == 2 ? "fd00::2" : "10.0.0.2"
            flow.destinationPort = 3_260
            flow.origin = "network"
            flow.actions = "splice=1"
            flow.nPackets = 8
            flow.nBytes = 9_000
            return flow
        }
        return page
    }

    func sessions() async -> [SessionModel] { [model(12)] }

    private func model(_ id: UInt64) -> SessionModel {
        var session = SessionModel()
        session.id = id
        session.protocol = "iscsi"
        session.state = .spliced
        session.client = "10.0.0.1:40000"
        session.server = "server-a"
        return session
    }

    func session(_ id: UInt64) async throws(ControlError) -> SessionModel {
        guard id == 12 else { throw ControlError(.notFound, "there is no session \(id)") }
        return model(id)
    }

    func change(
        session id: UInt64, _ verb: SessionVerb
    ) async throws(ControlError) -> SessionModel {
        note("\(verb.rawValue) \(id)")
        guard id == 12 else {
            throw ControlError(
                .conflict, "session \(id) has no server leg yet",
                suggestion: "it gets one with its first command")
        }
        return model(id)
    }

    func resources() async -> [ResourceModel] { [] }
    func servers() async -> [ServerModel] { [] }
    func events(after: UInt64?) async -> [EventModel] {
        asked.withLock { state in state.events.filter { $0.sequence > after ?? 0 } }
    }
    func captures() async -> [CaptureModel] { [] }

    func startCapture(
        _ request: CaptureRequest
    ) async throws(ControlError) -> CaptureModel {
        note(
            "capture \(request.port) \(request.file) \(request.count ?? 0) \(request.filter ?? "-")"
        )
        var model = CaptureModel()
        model.port = request.port
        model.file = request.file
        return model
    }

    func stopCapture(port: String) async throws(ControlError) -> CaptureModel {
        note("stop \(port)")
        throw ControlError(.notFound, "port \(port) is not being captured")
    }

    func reload(_ request: ReloadRequest) async throws(ControlError) -> ReloadModel {
        throw ControlError(.notSupported, "no reload")
    }
}
