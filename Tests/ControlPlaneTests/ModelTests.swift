import ControlPlane
import Foundation
import Testing

/// Every model of the API, through JSON and back.
@Suite struct ModelTests {
    private func check<Value: Codable & Hashable>(
        _ value: Value, has fragments: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        for pretty in [false, true] {
            let data = JSONCoding.encode(value, pretty: pretty)
            #expect(
                try JSONCoding.decode(Value.self, data) == value, sourceLocation: sourceLocation)
        }
        let text = String(decoding: JSONCoding.encode(value), as: UTF8.self)
        for fragment in fragments {
            #expect(text.contains(fragment), "\(text)", sourceLocation: sourceLocation)
        }
    }

    @Test func `defaults`() throws {
        try check(StatusModel())
        try check(PortModel())
        try check(MACModel())
        try check(RuleModel())
        try check(FlowPage())
        try check(FlowModel())
        try check(TraceModel())
        try check(EventModel())
        try check(CaptureModel())
        try check(ReloadModel())
        try check(SessionModel())
        try check(ResourceModel())
        try check(ServerModel())
        try check(LegModel())
        try check(VolumeModel())
        try check(VolumeMemberModel())
        try check(TraceRequest())
    }

    @Test func `names and numbers on the wire`() throws {
        var status = StatusModel()
        status.uptimeS = 1.5
        status.rxPackets = .max
        status.drops = ["noRoute": 3, "a_b": 4]
        try check(
            status, has: #""uptime_s":1.5"#, #""rx_packets":18446744073709551615"#,
            #""is_ready":false"#)
        var rule = RuleModel()
        rule.nPackets = 5
        rule.idleTimeoutS = 7
        rule.text = "tcp,tp_dst=80 actions=\"\\/é\n"
        try check(rule, has: #""n_packets":5"#, #""idle_timeout_s":7"#, #""cookie":"0x0""#)
        var session = SessionModel()
        session.id = .max
        session.state = .spliced
        session.serverLeg = LegModel()
        session.longestStallUs = 12
        session.outstandingRequests = 0
        try check(
            session, has: #""state":"spliced""#, #""longest_stall_us":12"#, #""give_ups":0"#,
            #""is_spliceable":false"#)
        var server = ServerModel()
        server.parameters = ["MaxRecvDataSegmentLength": "8192", "commandWindow": "1"]
        server.health = .down
        server.latencyUs = 3
        try check(server, has: #""MaxRecvDataSegmentLength":"8192""#, #""health":"down""#)
        var member = VolumeMemberModel()
        member.state = .inService
        member.toCopy = 9
        var volume = VolumeModel()
        volume.capacity = .max
        volume.changedRegions = 3
        volume.members = [member]
        try check(
            volume, has: #""capacity":18446744073709551615"#, #""changed_regions":3"#,
            #""state":"in_service""#, #""to_copy":9"#)
        var event = EventModel()
        event.details = ["freeze_us": "7", "cookie": "0x1"]
        event.session = 4
        try check(event, has: #""freeze_us":"7""#, #""time_s":0"#)
        try check(
            ErrorModel(
                message: "m", field: "f", line: 1, column: 2, length: 3, suggestion: "s", text: "t"),
            has: #""column":2"#)
        try check(ReloadRequest(dryRun: true), has: #""dry_run":true"#)
        try check(
            CaptureRequest(port: "all", file: "/tmp/a.pcap", count: 1, filter: "tcp"),
            has: #""file":"/tmp/a.pcap""#)
        try check(RulesRequest(rules: ["a", "b"]), has: #"{"rules":["a","b"]}"#)
        try check(ChangeModel(count: 3), has: #"{"count":3}"#)
    }

    @Test func `enumerations have the words that the configuration has`() {
        #expect(SessionState.allCases.map(\.rawValue).contains("relaying"))
        #expect(SplicePolicy(rawValue: "auto") == .automatic)
        #expect(ServiceSplicePolicy(rawValue: "at_once") == .atOnce)
        #expect(SessionVerb.allCases.map(\.rawValue) == ["splice", "unsplice", "close"])
        #expect(HealthState.allCases.map(\.rawValue) == ["unknown", "up", "down"])
        #expect(VolumeMemberState.allCases.map(\.rawValue) == ["in_service", "out", "copying"])
    }

    @Test func `every kind of error has an HTTP status of its own`() {
        let statuses = ControlError.Kind.allCases.map { ControlError($0, "x").status }
        #expect(Set(statuses).count == statuses.count)
        #expect(statuses.allSatisfy { (400..<600).contains($0) })
        #expect("\(ControlError(.conflict, "busy"))" == "busy")
    }

    // MARK: Metrics

    @Test func `the Prometheus text format`() {
        var counter = MetricFamily(
            name: "dsr_packets_total", help: "Packets\\of a \"port\".\nSecond line.", kind: .counter
        )
        counter.add(UInt64(1))
        counter.add(UInt64.max, .init("port", "a\"b\\c\nd"), .init("side", "é"))
        var gauge = MetricFamily(name: "dsr_load", help: "Load.", kind: .gauge)
        gauge.add(1.5)
        gauge.add(Double.infinity)
        gauge.add(-Double.infinity)
        gauge.add(Double.nan)
        let empty = MetricFamily(name: "dsr_none", help: "", kind: .gauge)
        let text = MetricText.write([counter, gauge, empty])
        #expect(
            text == #"""
                # HELP dsr_packets_total Packets\\of a "port".\nSecond line.
                # TYPE dsr_packets_total counter
                dsr_packets_total 1
                dsr_packets_total{port="a\"b\\c\nd",side="é"} 18446744073709551615
                # HELP dsr_load Load.
                # TYPE dsr_load gauge
                dsr_load 1.5
                dsr_load +Inf
                dsr_load -Inf
                dsr_load NaN
                # HELP dsr_none \#("")
                # TYPE dsr_none gauge

                """#)
        #expect(MetricText.write([]).isEmpty)
        #expect(MetricText.contentType.hasPrefix("text/plain; version=0.0.4"))
    }
}
