import Foundation

/// Requests to calls of the service, whatever carries them.
struct ControlRouter: Sendable {
    static let bodyMaximum = 4 << 20
    static let paths = [
        "GET /status", "GET /metrics", "GET /ports", "GET /macs", "DELETE /macs",
        "GET /rules?match=", "POST /rules", "PUT /rules", "DELETE /rules?match=&strict=",
        "POST /trace", "GET /flows?offset=&limit=", "GET /sessions", "GET /sessions/ID",
        "POST /sessions/ID/splice|unsplice|close", "GET /resources",
        "POST /resources/NAME/move", "GET /volumes", "GET /volumes/NAME",
        "GET /nfs/mounts|exports|clients", "GET /servers", "POST /servers",
        "POST /servers/NAME/drain|undrain", "DELETE /servers/NAME?force=", "GET /balance",
        "GET /balance/plan", "POST /balance/apply", "PUT /balance/auto",
        "GET /events?after=", "GET /capture", "POST /capture", "DELETE /capture?port=",
        "POST /reload",
    ]

    struct Answer {
        var status = 200
        var body = Data()
        var type = "application/json"
    }

    let service: any ControlService

    func answer(
        method: String, path: String, query: [String: String], body: Data
    ) async -> Answer {
        do {
            return try await route(method, path, query, body)
        } catch let error as ControlError {
            return Answer(status: error.status, body: JSONCoding.encode(error.model))
        } catch {
            return Answer(
                status: 400,
                body: JSONCoding.encode(
                    ErrorModel(message: "the body is not what \(method) \(path) takes: \(error)")))
        }
    }

    private func json(_ value: some Encodable) -> Answer { Answer(body: JSONCoding.encode(value)) }

    private func route(
        _ method: String, _ path: String, _ query: [String: String], _ body: Data
    ) async throws -> Answer {
        let parts = path.split(separator: "/").map { $0.removingPercentEncoding ?? String($0) }
        switch (method, parts.first ?? "", parts.count) {
        case ("GET", "status", 1): return json(await service.status())
        case ("GET", "metrics", 1):
            return Answer(
                body: Data(MetricText.write(await service.metrics()).utf8),
                type: MetricText.contentType)
        case ("GET", "ports", 1): return json(await service.ports())
        case ("GET", "macs", 1): return json(await service.macs())
        case ("DELETE", "macs", 1): return json(try await service.flushMACs())
        case (_, "rules", 1): return try await rules(method, query, body)
        case ("POST", "trace", 1):
            return json(try await service.trace(JSONCoding.decode(TraceRequest.self, body)))
        case ("GET", "flows", 1):
            return json(
                try await service.flows(
                    offset: try number(query["offset"], "offset") ?? 0,
                    limit: min(10_000, try number(query["limit"], "limit") ?? 1_000)))
        case (_, "sessions", _): return try await sessions(method, parts)
        case ("GET", "resources", 1): return json(await service.resources())
        case ("GET", "volumes", 1): return json(await service.volumes())
        case ("GET", "volumes", 2): return json(try await service.volume(parts[1]))
        case ("GET", "nfs", 2): return try await nfs(path, parts[1])
        case (_, "resources", 3), (_, "servers", _), (_, "balance", _):
            return try await manage(method, parts, query, body)
        case ("GET", "events", 1):
            guard query["follow"] == nil else {
                throw ControlError(
                    .badRequest, "an answer has an end: events are not followed in one",
                    field: "follow",
                    suggestion: "ask again with after= and the last event's sequence number")
            }
            let after = try number(query["after"], "after")
            return json(await service.events(after: after.map(UInt64.init)))
        case ("GET", "capture", 1): return json(await service.captures())
        case ("POST", "capture", 1):
            return json(
                try await service.startCapture(JSONCoding.decode(CaptureRequest.self, body)))
        case ("DELETE", "capture", 1):
            return json(try await service.stopCapture(port: query["port"] ?? ""))
        case ("POST", "reload", 1):
            return json(try await service.reload(JSONCoding.decode(ReloadRequest.self, body)))
        default: throw unknown(method, path)
        }
    }

    private func unknown(_ method: String, _ path: String) -> ControlError {
        ControlError(
            .notFound, "there is no \(method) \(path)",
            suggestion: "there are " + Self.paths.joined(separator: ", "))
    }

    private func nfs(_ path: String, _ what: String) async throws -> Answer {
        switch what {
        case "mounts": return json(await service.nfsMounts())
        case "exports": return json(await service.nfsExports())
        case "clients": return json(await service.nfsClients())
        default: throw unknown("GET", path)
        }
    }

    private func rules(
        _ method: String, _ query: [String: String], _ body: Data
    ) async throws -> Answer {
        switch method {
        case "GET": return json(try await service.rules(selector: query["match"]))
        case "POST":
            return json(
                try await service.addRules(JSONCoding.decode(RulesRequest.self, body).rules))
        case "PUT":
            return json(
                try await service.replaceRules(JSONCoding.decode(RulesRequest.self, body).rules))
        case "DELETE":
            return json(
                try await service.deleteRules(
                    selector: query["match"] ?? "", isStrict: query["strict"] == "1"))
        default: throw unknown(method, "/rules")
        }
    }

    private func sessions(_ method: String, _ parts: [String]) async throws -> Answer {
        if parts.count == 1, method == "GET" { return json(await service.sessions()) }
        guard parts.count >= 2, let id = UInt64(parts[1]) else {
            throw unknown(method, "/" + parts.joined(separator: "/"))
        }
        if parts.count == 2, method == "GET" { return json(try await service.session(id)) }
        guard parts.count == 3, method == "POST", let verb = SessionVerb(rawValue: parts[2]) else {
            throw unknown(method, "/" + parts.joined(separator: "/"))
        }
        return json(try await service.change(session: id, verb))
    }

    private func manage(
        _ method: String, _ parts: [String], _ query: [String: String], _ body: Data
    ) async throws -> Answer {
        switch (method, parts[0], parts.count > 1 ? parts[parts.count - 1] : "", parts.count) {
        case ("POST", "resources", "move", 3):
            let request = try JSONCoding.decode(MoveRequest.self, body)
            return json(try await service.move(resource: parts[1], to: request.to))
        case ("GET", "servers", _, 1): return json(await service.servers())
        case ("POST", "servers", _, 1):
            return json(
                try await service.addServer(JSONCoding.decode(ServerRequest.self, body)))
        case ("DELETE", "servers", let name, 2):
            return json(try await service.removeServer(name, force: query["force"] == "1"))
        case ("POST", "servers", let text, 3):
            guard let verb = ServerVerb(rawValue: text) else { break }
            return json(try await service.change(server: parts[1], verb))
        case ("GET", "balance", _, 1): return json(await service.balance())
        case ("GET", "balance", "plan", 2): return json(await service.balancePlan())
        case ("POST", "balance", "apply", 2):
            return json(
                try await service.applyBalance(JSONCoding.decode(BalanceRequest.self, body)))
        case ("PUT", "balance", "auto", 2):
            let request = try JSONCoding.decode(AutomaticBalanceRequest.self, body)
            return json(try await service.setAutomaticBalance(request.isOn))
        default: break
        }
        throw unknown(method, "/" + parts.joined(separator: "/"))
    }

    private func number(_ text: String?, _ field: String) throws -> Int? {
        guard let text else { return nil }
        guard let value = Int(text), value >= 0 else {
            throw ControlError(.badRequest, "\"\(text)\" is not a number", field: field)
        }
        return value
    }
}
