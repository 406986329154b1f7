import ControlPlane
import Foundation
import Logging

/// An API with known values on a socket of its own, and both of its clients.
final class ServedAPI<Service: ControlService>: Sendable {
    let folder: TemporaryDirectory
    let service: Service
    let client: ControlClient
    private let server: ControlServer

    init(_ service: Service) throws {
        folder = try TemporaryDirectory()
        self.service = service
        let path = folder.path + "/run/s"
        server = ControlServer(path: path, service: service, log: Logger(label: "test"))
        client = ControlClient(path: path, timeout: 10)
        try server.start()
    }
    deinit { server.stop() }

    func request(_ method: String, _ target: String, _ body: String? = nil) async throws -> Data {
        defer { withExtendedLifetime(self) {} }
        let client = client
        return try await blocking {
            try client.request(method, target, body: body.map { Data($0.utf8) })
        }
    }

    /// Status and model of a refusal; 200 when it was none.
    func answer(
        _ method: String, _ target: String, _ body: String? = nil
    ) async throws -> (status: Int, model: ErrorModel) {
        do {
            _ = try await request(method, target, body)
            return (200, ErrorModel(message: ""))
        } catch let error as ControlClient.Refused {
            return (error.status, error.model)
        }
    }

    /// `dsrctl` as a process.
    func control(
        _ arguments: [String], input: String? = nil, folder: String? = nil, limit: Double = 20
    ) async throws -> CommandLineTool.Result {
        defer { withExtendedLifetime(self) {} }
        return try await CommandLineTool.run(
            arguments, input: input, environment: ["DSR_SOCKET": client.path], folder: folder,
            limit: limit)
    }
}
