/// Where a session stands.
public enum SessionState: String, CaseIterable, Codable, Hashable, Sendable {
    /// The client logs in; no server is involved yet.
    case login
    /// Logged in (a discovery session, or waiting for a first command) without a server.
    case idle
    /// The server leg is being set up.
    case connecting
    /// Messages are relayed by the control plane.
    case relaying
    /// On the way into or out of the spliced state.
    case draining
    /// Packets go from port to port.
    case spliced
    case closing
}

/// What is redirected as a unit.
public enum SessionGrain: String, CaseIterable, Codable, Hashable, Sendable {
    case datagram
    case connection
    case message
}

/// When a session is spliced.
public enum SplicePolicy: String, CaseIterable, Codable, Hashable, Sendable {
    /// As soon as everything that it uses belongs to one server.
    case automatic = "auto"
    /// When asked to, over the API.
    case manual
    case never
}

/// When a plain TCP service is spliced.
public enum ServiceSplicePolicy: String, CaseIterable, Codable, Hashable, Sendable {
    /// As soon as the connection to the server is up.
    case atOnce = "at_once"
    case manual
    case never
}

/// Plain TCP redirection: each connection to a port of the virtual address goes to one server.
public struct Service: Hashable, Sendable {
    public var name: String
    /// TCP port at the virtual addresses.
    public var listenPort: UInt16
    /// Name of the server.
    public var server: String
    /// TCP port at the server.
    public var serverPort: UInt16
    public var splice: ServiceSplicePolicy

    public init(
        name: String, listenPort: UInt16, server: String, serverPort: UInt16,
        splice: ServiceSplicePolicy = .atOnce
    ) {
        self.name = name
        self.listenPort = listenPort
        self.server = server
        self.serverPort = serverPort
        self.splice = splice
    }
}
