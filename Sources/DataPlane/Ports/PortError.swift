import Glibc

/// A port could not be opened.
public struct PortError: Error, CustomStringConvertible, Sendable {
    public var port: String
    public var message: String
    public init(port: String, message: String) {
        self.port = port
        self.message = message
    }
    init(port: String, operation: String, errno code: Int32) {
        self.init(port: port, message: "\(operation): \(String(cString: strerror(code)))")
    }
    public var description: String { "port \(port): \(message)" }
}
