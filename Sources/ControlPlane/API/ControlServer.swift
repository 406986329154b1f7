import FlyingFox
import FlyingSocks
import Foundation
import Glibc
public import Logging

/// The API over HTTP on a Unix socket, served by FlyingFox: it has no dependencies of its own, so the build
/// stays short.
public final class ControlServer: @unchecked Sendable {
    public struct StartError: Error, CustomStringConvertible {
        public var description: String
    }

    private let path: String
    private let router: ControlRouter
    private let log: Logger
    private var task: Task<Void, Never>?

    public init(path: String, service: any ControlService, log: Logger) {
        self.path = path
        self.log = log
        router = ControlRouter(service: service)
    }

    /// Starts to listen. A socket file that nobody answers on is left by a daemon that was killed: it is
    /// replaced. Throws when a daemon answers.
    public func start() throws {
        if FileManager.default.fileExists(atPath: path) {
            if (try? ControlClient(path: path, timeout: 1).request("GET", "/status")) != nil {
                throw StartError(description: "a daemon is running with socket \(path)")
            }
            unlink(path)
        }
        let folder = (path as NSString).deletingLastPathComponent
        if !folder.isEmpty {
            try? FileManager.default.createDirectory(
                atPath: folder, withIntermediateDirectories: true)
        }
        guard path.utf8.count < 108 else {
            throw StartError(description: "socket path \(path) is longer than 107 octets")
        }
        let server = HTTPServer(
            address: sockaddr_un.unix(path: path), timeout: 30,
            // It would print every request to the standard output.
            logger: .disabled, handler: RouterHandler(router: router))
        // Only the owner may program the switch: nothing is ever there with wider permissions.
        let mask = umask(0o177)
        task = Task { [log] in
            do { try await server.run() } catch is CancellationError {} catch {
                log.error("control socket: \(error)")
            }
        }
        let deadline = Date().addingTimeInterval(5)
        while !FileManager.default.fileExists(atPath: path) {
            guard Date() < deadline else {
                umask(mask)
                throw StartError(description: "cannot listen on \(path)")
            }
            usleep(2_000)
        }
        umask(mask)
    }

    public func stop() {
        task?.cancel()
        unlink(path)
    }
}

private struct RouterHandler: HTTPHandler {
    let router: ControlRouter

    func handleRequest(_ request: HTTPRequest) async throws -> HTTPResponse {
        var body = Data()
        if request.method != .GET {
            for try await part in request.bodySequence {
                body.append(part)
                guard body.count <= ControlRouter.bodyMaximum else {
                    return response(
                        413, JSONCoding.encode(ErrorModel(message: "the body is too long")),
                        "application/json")
                }
            }
        }
        let query = Dictionary(
            request.query.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        let answer = await router.answer(
            method: request.method.rawValue, path: request.path, query: query, body: body)
        return response(answer.status, answer.body, answer.type)
    }

    private func response(_ status: Int, _ body: Data, _ type: String) -> HTTPResponse {
        HTTPResponse(
            statusCode: HTTPStatusCode(status, phrase: status < 300 ? "OK" : "Error"),
            headers: [.contentType: type, HTTPHeader("Connection"): "close"], body: body)
    }
}
