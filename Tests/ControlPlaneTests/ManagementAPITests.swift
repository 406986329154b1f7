import ControlPlane
import Foundation
import Logging
import TestSupport
import Testing

/// The resource management over the API, on a socket of its own.
@Suite(.serialized) final class ManagementAPITests {
    private let directory: TemporaryDirectory
    private let service = FakeService()
    private let server: ControlServer
    private let client: ControlClient

    init() throws {
        directory = try TemporaryDirectory()
        let path = directory.path + "/dsrd.sock"
        server = ControlServer(path: path, service: service, log: Logger(label: "test"))
        client = ControlClient(path: path, timeout: 10)
        try server.start()
    }
    deinit { server.stop() }

    private func request(
        _ method: String, _ target: String, _ body: String? = nil
    ) async throws -> Data {
        let client = client
        return try await blocking {
            try client.request(method, target, body: body.map { Data($0.utf8) })
        }
    }

    private func status(
        _ method: String, _ target: String, _ body: String? = nil
    ) async throws -> (status: Int, model: ErrorModel) {
        do {
            _ = try await request(method, target, body)
            return (200, ErrorModel(message: ""))
        } catch let error as ControlClient.Refused {
            return (error.status, error.model)
        }
    }

    @Test func `every route reaches its call`() async throws {
        let added =
            #"{"name":"s9","addresses":["10.0.0.9"],"port":860,"resources":["r1","r2"],"#
            + #""is_spare":true,"weight":2.5}"#
        let routes: [(method: String, target: String, body: String?, call: String)] = [
            ("POST", "/resources/r1/move", #"{"to":"s2"}"#, "move r1 s2"),
            ("POST", "/resources/a%2Db%20%C3%A9/move", #"{"to":"s2"}"#, "move a-b é s2"),
            ("POST", "/servers/s1/drain", nil, "drain s1"),
            ("POST", "/servers/s%2D1/undrain", "", "undrain s-1"),
            ("POST", "/servers", added, #"addServer s9 ["10.0.0.9"] 860 ["r1", "r2"] true 2.5"#),
            (
                "POST", "/servers", #"{"name":"s9","addresses":[],"resources":[]}"#,
                "addServer s9 [] 0 [] false 0.0"
            ),
            ("DELETE", "/servers/s1", nil, "removeServer s1 false"),
            ("DELETE", "/servers/s1?force=1", nil, "removeServer s1 true"),
            ("GET", "/servers", nil, "servers"), ("GET", "/resources", nil, "resources"),
            ("GET", "/balance", nil, "balance"), ("GET", "/balance/plan", nil, "balancePlan"),
            (
                "POST", "/balance/apply",
                #"{"moves":[{"resource":"r1","from":"s1","to":"s2"}]}"#,
                #"applyBalance ["r1 s1 s2"]"#
            ), ("PUT", "/balance/auto", #"{"is_on":true}"#, "setAutomaticBalance true"),
            ("PUT", "/balance/auto", #"{"is_on":false}"#, "setAutomaticBalance false"),
        ]
        for route in routes {
            _ = try await request(route.method, route.target, route.body)
            #expect(service.calls.last == route.call)
        }
        #expect(service.calls.count == routes.count)
    }

    @Test func `answers and refusals come through whole`() async throws {
        let data = try await request("POST", "/resources/r1/move", #"{"to":"s2"}"#)
        let operation = try JSONCoding.decode(OperationModel.self, data)
        #expect(operation.change == 7)
        #expect(operation.message == "r1 is being moved to s2")
        #expect(operation.notes == ["a note"])
        let plan = try JSONCoding.decode(
            BalancePlanModel.self, await request("GET", "/balance/plan"))
        #expect(plan.moves == [MoveModel(resource: "r1", from: "s1", to: "s2")])
        #expect(plan.loads.map(\.after) == [400.25, 399.75])
        let refused = try await status("POST", "/servers/nobody/drain")
        #expect(refused.status == 404)
        #expect(refused.model.suggestion == "there are others")
    }

    @Test func `what is not there, and bodies that are not right`() async throws {
        for (method, target) in [
            ("GET", "/resources/r1/move"), ("POST", "/resources/r1"),
            ("POST", "/resources/r1/explode"), ("POST", "/servers/s1"), ("GET", "/servers/s1"),
            ("POST", "/servers/s1/explode"), ("POST", "/servers/s1/drain/now"),
            ("DELETE", "/servers"), ("DELETE", "/servers/s1/drain"), ("PUT", "/servers"),
            ("POST", "/balance"), ("GET", "/balance/apply"), ("POST", "/balance/plan"),
            ("POST", "/balance/auto"), ("GET", "/balance/plan/x"),
        ] {
            let answer = try await status(method, target)
            #expect(answer.status == 404, "\(method) \(target)")
            #expect(answer.model.suggestion?.contains("POST /resources/NAME/move") == true)
        }
        for (method, target) in [
            ("POST", "/resources/r1/move"), ("POST", "/servers"), ("POST", "/balance/apply"),
            ("PUT", "/balance/auto"),
        ] {
            for body in ["", "{", "[]", "{}", "null", #"{"to":1,"name":1,"is_on":1,"moves":1}"#] {
                #expect(try await status(method, target, body).status == 400, "\(target) \(body)")
            }
        }
        #expect(service.calls.isEmpty)
    }

    @Test func `a refusal of the management has its status and tells what would be right`() {
        let table = ResourceTable([
            Resource(
                name: "r1", target: "iqn.2026-01.test:r1", servers: ["s1", "s2"], assigned: "s1")
        ])
        let cases: [(ManagementRefusal, Int, String)] = [
            (.unknownServer("x"), 404, "server list"), (.unknownResource("x"), 404, "r1"),
            (.serverExists("s1"), 409, "remove"),
            (.notHeld(resource: "r1", server: "s3"), 409, "s1, s2"),
            (.alreadyThere(resource: "r1", server: "s1"), 409, "nothing to do"),
            (.changeInProgress(resource: "r1"), 409, "events --follow"),
            (.serverNotUsable("s2", why: "it is down"), 409, "server list"),
            (.alreadyDraining("s1"), 409, "undrain s1"), (.notDraining("s1"), 409, "nothing"),
            (.stillServes("s1", resources: ["r1"]), 409, "--force"),
            (.onlyHolder("s1", resources: ["r1"]), 409, "another server"),
            (.stalePlan("x"), 409, "balance plan"),
        ]
        for (refusal, status, hint) in cases {
            let error = ControlError(refusal, table: table)
            #expect(error.status == status)
            #expect(error.model.message == refusal.description)
            #expect(error.model.suggestion?.contains(hint) == true, "\(refusal)")
        }
    }

    @Test func `histograms are written as Prometheus wants them`() {
        var family = MetricFamily(name: "dsr_t_seconds", help: "T.", kind: .histogram)
        family.add(
            MetricFamily.Histogram(bounds: [0.1, 1], counts: [2, 3], count: 4, sum: 12.5),
            .init("mode", "de\"ad"))
        #expect(
            MetricText.write([family])
                == """
                # HELP dsr_t_seconds T.
                # TYPE dsr_t_seconds histogram
                dsr_t_seconds_bucket{mode="de\\"ad",le="0.1"} 2
                dsr_t_seconds_bucket{mode="de\\"ad",le="1.0"} 3
                dsr_t_seconds_bucket{mode="de\\"ad",le="+Inf"} 4
                dsr_t_seconds_sum{mode="de\\"ad"} 12.5
                dsr_t_seconds_count{mode="de\\"ad"} 4

                """)
        var empty = MetricFamily(name: "dsr_e", help: "E.", kind: .histogram)
        empty.add(MetricFamily.Histogram(bounds: [1], counts: [], count: 0, sum: 0))
        #expect(MetricText.write([empty]).contains("dsr_e_bucket{le=\"1.0\"} 0\n"))
    }

    @Test func `latencies of requests become cumulative buckets`() {
        let histogram = MetricFamily.Histogram(
            requestLatencies: [5, 0, 2, 1], sum: 3_000_000_000)
        #expect(histogram.bounds == [16_384e-9, 32_768e-9, 65_536e-9])
        #expect(histogram.counts == [5, 5, 7])
        #expect(histogram.count == 8)
        #expect(histogram.sum == 3)
        let none = MetricFamily.Histogram(requestLatencies: [], sum: 0)
        #expect(none.bounds.isEmpty && none.count == 0)
    }

    @Test func `a plan tells loads before and after, and why there is none`() {
        func input(_ loads: [Double]) -> PlacementInput {
            PlacementInput(
                servers: [PlacementServer(name: "s1"), PlacementServer(name: "s2")],
                resources: loads.enumerated().map { index, load in
                    PlacementResource(
                        name: "r\(index)", servers: ["s1", "s2"], assigned: "s1", load: load)
                })
        }
        let plan = BalancePlanModel(input([300, 300, 100]), obstacle: "a change is under way")
        #expect(plan.loads.map(\.server) == ["s1", "s2"])
        #expect(plan.loads.map(\.before) == [700, 0])
        #expect(plan.loads.map(\.after).max() == 400)
        #expect(plan.loads.map(\.after).reduce(0, +) == 700)
        #expect(plan.moves.allSatisfy { $0.from == "s1" && $0.to == "s2" } && !plan.moves.isEmpty)
        #expect(plan.obstacle == "a change is under way")
        #expect(BalancePlanModel(input([0, 0]), obstacle: nil).reason.contains("no load"))
        let one = BalancePlanModel(input([500]), obstacle: nil)
        #expect(one.moves.isEmpty && one.loads.map(\.after) == [500, 0])
        #expect(one.reason.contains("worth"))
    }
}
