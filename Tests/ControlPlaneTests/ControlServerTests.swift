import ControlPlane
import Foundation
import Logging
import TestSupport
import Testing

/// Client and server over a socket of their own.
@Suite(.serialized) struct ControlServerTests {
    private let api: ServedAPI<FakeService>
    private var service: FakeService { api.service }
    private var client: ControlClient { api.client }
    private var directory: TemporaryDirectory { api.folder }

    init() throws { api = try ServedAPI(FakeService()) }

    private func request(
        _ method: String, _ target: String, _ body: String? = nil
    ) async throws -> String {
        String(decoding: try await api.request(method, target, body), as: UTF8.self)
    }

    /// Status and model of a request that must be refused.
    private func refusal(
        _ method: String, _ target: String, _ body: String? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> (status: Int, model: ErrorModel) {
        let answer = try await api.answer(method, target, body)
        #expect(answer.status != 200, sourceLocation: sourceLocation)
        return answer
    }

    @Test func `every route reaches its call`() async throws {
        let routes: [(method: String, target: String, body: String?, call: String)] = [
            ("GET", "/status", nil, "status"), ("GET", "/ports", nil, "ports"),
            ("GET", "/metrics", nil, "metrics"), ("GET", "/macs", nil, "macs"),
            ("DELETE", "/macs", nil, "flushMACs"), ("GET", "/rules", nil, "rules -"),
            ("GET", "/rules?match=tcp%2Ctp_dst%3D80", nil, "rules tcp,tp_dst=80"),
            ("POST", "/rules", #"{"rules":["a","b"]}"#, #"addRules ["a", "b"]"#),
            ("PUT", "/rules", #"{"rules":[]}"#, "replaceRules []"),
            ("DELETE", "/rules?match=arp&strict=1", nil, "deleteRules arp true"),
            ("DELETE", "/rules", nil, "deleteRules  false"),
            ("POST", "/trace", #"{"flow":"tcp","in_port":"1"}"#, "trace tcp - 1"),
            ("POST", "/trace", #"{"packet":"00"}"#, "trace - 00 -"),
            ("GET", "/flows", nil, "flows 0 1000"),
            ("GET", "/flows?offset=5&limit=99999", nil, "flows 5 10000"),
            ("GET", "/sessions", nil, "sessions"), ("GET", "/sessions/5", nil, "session 5"),
            ("POST", "/sessions/5/splice", nil, "change 5 splice"),
            ("POST", "/sessions/5/unsplice", "", "change 5 unsplice"),
            ("GET", "/resources", nil, "resources"), ("GET", "/servers", nil, "servers"),
            ("GET", "/volumes", nil, "volumes"), ("GET", "/volumes/v8", nil, "volume v8"),
            ("GET", "/volumes/a%2Db%20c", nil, "volume a-b c"),
            ("GET", "/nfs/mounts", nil, "nfsMounts"), ("GET", "/nfs/exports", nil, "nfsExports"),
            ("GET", "/nfs/clients", nil, "nfsClients"),
            ("GET", "/events", nil, "events -"), ("GET", "/events?after=12", nil, "events 12"),
            ("GET", "/capture", nil, "captures"),
            (
                "POST", "/capture", #"{"port":"all","file":"/x","count":3}"#,
                "startCapture all /x 3"
            ), ("DELETE", "/capture?port=c%20d", nil, "stopCapture c d"),
        ]
        for route in routes {
            _ = try await request(route.method, route.target, route.body)
            #expect(service.calls.last == route.call)
        }
        #expect(service.calls.count == routes.count)
    }

    @Test func `values come through whole`() async throws {
        let client = client
        let status = try await blocking { try client.get(StatusModel.self, "/status") }
        #expect(status.version == "9.9")
        #expect(status.isReady)
        #expect(status.sessionsByState == ["spliced": 3])
        #expect(status.rxPackets == .max)
        let text = try await request("GET", "/ports")
        #expect(text.contains(#""rx_packets":7"#))
        #expect(
            try await request("GET", "/metrics")
                == "# HELP dsr_x_total X.\n# TYPE dsr_x_total counter\n"
                + "dsr_x_total{port=\"a\\\"b\"} 18446744073709551615\n")
    }

    @Test func `events are not followed in one answer`() async throws {
        let refused = try await refusal("GET", "/events?follow=1&after=3")
        #expect(refused.status == 400)
        #expect(refused.model.field == "follow")
        #expect(refused.model.suggestion?.contains("after=") == true)
        #expect(service.calls.isEmpty)
    }

    @Test func `errors of the service keep their status and place`() async throws {
        let bad = try await refusal("POST", "/rules", #"{"rules":["bad"]}"#)
        #expect(bad.status == 400)
        #expect(
            bad.model
                == ErrorModel(
                    message: "wrong", line: 1, column: 2, length: 3, suggestion: "right",
                    text: "bad"))
        #expect(try await refusal("POST", "/rules", #"{"rules":["full"]}"#).status == 507)
        #expect(try await refusal("GET", "/sessions/6").status == 404)
        #expect(try await refusal("GET", "/volumes/nobody").status == 404)
        #expect(try await refusal("POST", "/sessions/5/close").status == 409)
        #expect(try await refusal("POST", "/reload", #"{"dry_run":true}"#).status == 501)
        #expect(service.calls.last == "reload true")
    }

    @Test func `paths and methods that are not there`() async throws {
        for (method, target) in [
            ("GET", "/"), ("GET", "/nothing"), ("POST", "/status"), ("PUT", "/macs"),
            ("PATCH", "/rules"), ("GET", "/rules/1"), ("GET", "/sessions/x"),
            ("GET", "/sessions/-1"), ("DELETE", "/sessions/5"), ("POST", "/sessions"),
            ("POST", "/sessions/5/explode"), ("GET", "/sessions/5/splice"),
            ("POST", "/sessions/5/splice/now"), ("GET", "/status/x"), ("DELETE", "/events"),
            ("POST", "/volumes"), ("DELETE", "/volumes/v8"), ("GET", "/volumes/v8/x"),
            ("GET", "/nfs"), ("POST", "/nfs/mounts"), ("GET", "/nfs/nothing"),
            ("GET", "/nfs/mounts/x"),
        ] {
            let answer = try await refusal(method, target)
            #expect(answer.status == 404)
            #expect(answer.model.message.contains("there is no"))
            #expect(answer.model.suggestion?.contains("GET /status") == true)
        }
        #expect(service.calls.isEmpty)
    }

    @Test func `bodies and numbers that are not right`() async throws {
        for body in [
            "", "{", "[]", "{}", "null", #"{"rules":"a"}"#, #"{"rules":[1]}"#, "\u{0}", "é",
        ] {
            for method in ["POST", "PUT"] {
                let answer = try await refusal(method, "/rules", body)
                #expect(answer.status == 400)
                #expect(!answer.model.message.isEmpty)
            }
        }
        for target in ["/flows?offset=-1", "/flows?limit=x", "/events?after=1.5", "/events?after="]
        {
            let answer = try await refusal("GET", target)
            #expect(answer.status == 400)
            #expect(answer.model.field != nil)
        }
        #expect(service.calls.isEmpty)
    }

    @Test func `a body that is too long is refused, the longest is not`() async throws {
        let head = #"{"rules":[""#
        let tail = #""]}"#
        let fill = (4 << 20) - head.utf8.count - tail.utf8.count
        let longest = head + String(repeating: "x", count: fill) + tail
        #expect(try await request("POST", "/rules", longest).contains("1"))
        let answer = try await refusal("POST", "/rules", longest + " ")
        #expect(answer.status == 413)
        #expect(service.calls.count == 1)
        // The server goes on.
        _ = try await request("GET", "/status")
    }

    @Test func `many requests at once`() async throws {
        let client = client
        try await withThrowingTaskGroup { group in
            for _ in 0..<24 {
                group.addTask {
                    try await blocking { _ = try client.request("GET", "/status") }
                }
            }
            try await group.waitForAll()
        }
        #expect(service.calls.count == 24)
    }

    @Test func `what is no HTTP does not stop the server`() async throws {
        var random = SplitMix64(seed: 1)
        let path = client.path
        for text in [
            "\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST /rules HTTP/1.1\r\n",
            "POST /rules HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            "POST /rules HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "GET /%zz HTTP/1.1\r\n\r\n", "GET /status?%%%=& HTTP/1.1\r\n\r\n", "\0\0\0",
            String(
                (0..<2_000).map { _ in
                    Character(UnicodeScalar(UInt8.random(in: 1...127, using: &random)))
                }),
        ] {
            try await blocking {
                let connection = try UnixConnection(path: path)
                connection.send(Array(text.utf8))
                connection.close()
            }
        }
        #expect(try await request("GET", "/status").contains("9.9"))
    }

    @Test func `only the owner may use the socket`() throws {
        let attributes = try FileManager.default.attributesOfItem(atPath: client.path)
        #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == 0o600)
    }

    @Test func `a second daemon does not start, a dead one's socket is replaced`() async throws {
        let path = client.path
        let second = ControlServer(path: path, service: service, log: Logger(label: "test"))
        await #expect(throws: ControlServer.StartError.self) {
            try await blocking { try second.start() }
        }
        _ = try await request("GET", "/status")
        // A file that nobody listens on.
        let stale = directory.path + "/stale.sock"
        try Data().write(to: URL(fileURLWithPath: stale))
        let third = ControlServer(path: stale, service: service, log: Logger(label: "test"))
        try await blocking { try third.start() }
        let client = ControlClient(path: stale, timeout: 10)
        try await blocking { _ = try client.request("GET", "/status") }
        third.stop()
        #expect(!FileManager.default.fileExists(atPath: stale))
    }

    @Test func `nobody answers`() async throws {
        for path in [directory.path + "/none.sock", "/" + String(repeating: "x", count: 200)] {
            let client = ControlClient(path: path, timeout: 1)
            await #expect(throws: ControlClient.Unreachable.self) {
                try await blocking { _ = try client.request("GET", "/status") }
            }
        }
    }
}
