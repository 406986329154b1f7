import ControlPlane
import Foundation
import Testing

/// The resource management over the API, on a socket of its own.
@Suite(.serialized) struct ManagementAPITests {
    private let api: ServedAPI<FakeService>
    private var service: FakeService { api.service }

    init() throws { api = try ServedAPI(FakeService()) }

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
            (
                "POST", "/servers",
                #"{"name":"s9","addresses":[],"resources":[],"credentials":{"user":"u","#
                    + #""secret":"s","mutual":{"user":"v","secret":"t"}}}"#,
                "addServer s9 [] 0 [] false 0.0 u/s v/t"
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
            _ = try await api.request(route.method, route.target, route.body)
            #expect(service.calls.last == route.call)
        }
        #expect(service.calls.count == routes.count)
    }

    @Test func `answers and refusals come through whole`() async throws {
        let data = try await api.request("POST", "/resources/r1/move", #"{"to":"s2"}"#)
        let operation = try JSONCoding.decode(OperationModel.self, data)
        #expect(operation.change == 7)
        #expect(operation.message == "r1 is being moved to s2")
        #expect(operation.notes == ["a note"])
        let plan = try JSONCoding.decode(
            BalancePlanModel.self, await api.request("GET", "/balance/plan"))
        #expect(plan.moves == [MoveModel(resource: "r1", from: "s1", to: "s2")])
        #expect(plan.loads.map(\.after) == [400.25, 399.75])
        let refused = try await api.answer("POST", "/servers/nobody/drain")
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
            let answer = try await api.answer(method, target)
            #expect(answer.status == 404, "\(method) \(target)")
            #expect(answer.model.suggestion?.contains("POST /resources/NAME/move") == true)
        }
        for (method, target) in [
            ("POST", "/resources/r1/move"), ("POST", "/servers"), ("POST", "/balance/apply"),
            ("PUT", "/balance/auto"),
        ] {
            for body in ["", "{", "[]", "{}", "null", #"{"to":1,"name":1,"is_on":1,"moves":1}"#] {
                #expect(
                    try await api.answer(method, target, body).status == 400, "\(target) \(body)")
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
        let plan = BalancePlanModel(
            input([300, 300, 100]), policy: BalancePolicy(), obstacle: "a change is under way")
        #expect(plan.loads.map(\.server) == ["s1", "s2"])
        #expect(plan.loads.map(\.before) == [700, 0])
        #expect(plan.loads.map(\.after).max() == 400)
        #expect(plan.loads.map(\.after).reduce(0, +) == 700)
        #expect(plan.moves.allSatisfy { $0.from == "s1" && $0.to == "s2" } && !plan.moves.isEmpty)
        #expect(plan.obstacle == "a change is under way")
        #expect(
            BalancePlanModel(input([0, 0]), policy: BalancePolicy(), obstacle: nil).reason.contains(
                "no load"))
        let one = BalancePlanModel(input([500]), policy: BalancePolicy(), obstacle: nil)
        #expect(one.moves.isEmpty && one.loads.map(\.after) == [500, 0])
        #expect(one.reason.contains("worth"))
    }

    /// Three servers with 100, 110 and 120: within the standard ratio, beyond a narrow one.
    private var nearlyEven: PlacementInput {
        PlacementInput(
            servers: (1...3).map { PlacementServer(name: "s\($0)") },
            resources: [(1, 60.0), (1, 40), (2, 60), (2, 50), (3, 60), (3, 30), (3, 30)]
                .enumerated().map { index, entry in
                    PlacementResource(
                        name: "r\(index)", servers: ["s1", "s2", "s3"],
                        assigned: "s\(entry.0)", load: entry.1)
                })
    }

    @Test func `status and plan of balancing follow the policy that is given`() {
        let standard = BalanceModel(nearlyEven, policy: BalancePolicy())
        #expect(!standard.isUneven && standard.reason == "even enough")
        #expect(standard.loads.map(\.before) == [100, 110, 120])
        let narrow = BalanceModel(nearlyEven, policy: BalancePolicy(ratio: 1.01))
        #expect(narrow.isUneven && narrow.reason.hasPrefix("uneven: "))
        #expect(narrow.loads == standard.loads)

        let uneven = PlacementInput(
            servers: [PlacementServer(name: "s1"), PlacementServer(name: "s2")],
            resources: [300.0, 300, 100].enumerated().map { index, load in
                PlacementResource(
                    name: "r\(index)", servers: ["s1", "s2"], assigned: "s1", load: load)
            })
        let cheap = BalancePlanModel(uneven, policy: BalancePolicy(), obstacle: nil)
        #expect(!cheap.moves.isEmpty)
        let dear = BalancePlanModel(
            uneven, policy: BalancePolicy(minimumImprovement: 10), obstacle: nil)
        #expect(dear.moves.isEmpty && dear.loads.map(\.after) == [700, 0])
    }

    @Test func `a server that is added follows the rules of the configuration`() throws {
        var request = ServerRequest(name: "s9", addresses: ["10.0.0.9"], resources: ["r1"])
        #expect(try Daemon.server(request).credential == nil)
        request.credentials = CHAPRequest(
            user: "u", secret: "secret-of-12", mutual: .init(user: "v", secret: "another-of-13"))
        let server = try Daemon.server(request)
        #expect(
            server.credential
                == CHAPCredential(
                    user: "u", secret: "secret-of-12",
                    mutual: .init(user: "v", secret: "another-of-13")))
        // There is no way to have a command run.
        #expect(server.fence.isEmpty)
        #expect(!"\(request)".contains("secret-of"), "a secret is shown")
        let wrong: [(CHAPRequest, String)] = [
            (CHAPRequest(user: "", secret: "secret-of-12"), "credentials.user"),
            (CHAPRequest(user: "u", secret: "11-octets.."), "credentials.secret"),
            (
                CHAPRequest(user: "u", secret: String(repeating: "x", count: 256)),
                "credentials.secret"
            ),
            (
                CHAPRequest(
                    user: "u", secret: "secret-of-12", mutual: .init(user: "v", secret: "short")),
                "credentials.mutual.secret"
            ),
        ]
        for (credentials, field) in wrong {
            request.credentials = credentials
            let error = try #require(throws: ControlError.self) { try Daemon.server(request) }
            #expect(error.status == 400 && error.model.field == field)
            #expect(!error.model.message.contains("11-octets"))
        }
    }
}
