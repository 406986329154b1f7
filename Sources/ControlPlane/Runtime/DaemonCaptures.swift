import DataPlane
import Foundation

// Captures of one port, or of all of them into a file each.
extension Daemon {
    /// Name that stands for every port.
    private static let allPorts = "all"

    public func captures() async -> [CaptureModel] {
        captures.all.compactMap { name, port in port.recording.map { model(name, $0) } }
    }

    public func startCapture(
        _ request: CaptureRequest
    ) async throws(ControlError) -> CaptureModel {
        guard request.file.hasPrefix("/") else {
            throw ControlError(
                .badRequest, "the file needs an absolute path", field: "file",
                suggestion: "the daemon writes it, and has a directory of its own")
        }
        if request.port == Self.allPorts { return try startAll(request) }
        let (name, recorder) = try recorder(request.port)
        return try start(recorder, name, request, file: request.file)
    }

    public func stopCapture(port: String) async throws(ControlError) -> CaptureModel {
        if port == Self.allPorts {
            let running = captures.all.filter { $0.port.recording?.isRunning == true }
            guard !running.isEmpty else {
                throw ControlError(.notFound, "no port is being captured")
            }
            return sum(running.compactMap { name, port in port.stop().map { model(name, $0) } })
        }
        let (name, recorder) = try recorder(port)
        guard let recording = recorder.stop() else {
            throw ControlError(.notFound, "port \(port) is not being captured")
        }
        return model(name, recording)
    }

    private func recorder(
        _ port: String
    ) throws(ControlError) -> (name: String, port: RecordingPort) {
        let name = captures.recorder(port) == nil ? UInt16(port).flatMap(portNames.name) : port
        guard let name, let recorder = captures.recorder(name) else {
            let known = captures.all.map(\.name).joined(separator: ", ")
            throw ControlError(
                .notFound, "there is no port \(port)", field: "port",
                suggestion: "there are \(known), and all")
        }
        return (name, recorder)
    }

    private func start(
        _ recorder: RecordingPort, _ name: String, _ request: CaptureRequest, file: String
    ) throws(ControlError) -> CaptureModel {
        if recorder.recording?.isRunning == true {
            throw ControlError(
                .conflict, "port \(name) is being captured already", field: "port",
                suggestion: "end it with capture stop \(name)")
        }
        do throws(PortError) {
            try recorder.start(
                path: file, limit: UInt64(max(0, request.count ?? 0)), filter: request.filter)
        } catch {
            // libpcap names the file itself.
            throw ControlError(.badRequest, error.message, field: "file")
        }
        return recorder.recording.map { model(name, $0) } ?? CaptureModel()
    }

    /// A file for each port: a pcap file does not say which port a frame is of. None is started when one
    /// cannot be.
    private func startAll(_ request: CaptureRequest) throws(ControlError) -> CaptureModel {
        var started: [(port: RecordingPort, model: CaptureModel)] = []
        for (name, recorder) in captures.all {
            do throws(ControlError) {
                let file = Self.file(request.file, of: name)
                started.append((recorder, try start(recorder, name, request, file: file)))
            } catch {
                for (port, model) in started {
                    _ = port.stop()
                    unlink(model.file)
                }
                throw error
            }
        }
        return sum(started.map(\.model))
    }

    /// `x.pcap` of port c0 is `x-c0.pcap`.
    static func file(_ file: String, of port: String) -> String {
        let path = file as NSString
        let ending = path.pathExtension.isEmpty ? "" : ".\(path.pathExtension)"
        return path.deletingPathExtension + "-\(port)\(ending)"
    }

    private func sum(_ models: [CaptureModel]) -> CaptureModel {
        var result = CaptureModel()
        result.port = Self.allPorts
        result.file = models.map(\.file).joined(separator: " ")
        result.filter = models.first?.filter
        result.isRunning = models.contains { $0.isRunning }
        for model in models {
            result.packets += model.packets
            result.bytes += model.bytes
            result.drops += model.drops
        }
        result.error = models.compactMap(\.error).first
        return result
    }

    private func model(_ name: String, _ recording: RecordingPort.Recording) -> CaptureModel {
        var model = CaptureModel()
        model.port = name
        model.file = recording.path
        model.filter = recording.filter
        model.isRunning = recording.isRunning
        model.packets = recording.packets
        model.bytes = recording.bytes
        model.error = recording.error
        return model
    }
}
