/// Everything that the configuration file says, validated.
public struct Configuration: Sendable {
    public struct ISCSI: Sendable {
        public var port: UInt16 = 3260
        public var requiresCHAP = false
        /// Sessions go into the dataplane by themselves; else by command.
        public var splicesAutomatically = true
        /// Name of the target that has all resources with a unit number as its units; nil: there is none.
        public var allUnitsTarget: String?
        public init() {}
    }

    /// A plain TCP redirection.
    public struct Service: Hashable, Sendable {
        public var name: String
        public var listenPort: UInt16
        public var server: String
        public var port: UInt16
        public var splicesAtOnce: Bool
    }

    public struct Health: Hashable, Sendable {
        public var intervalMilliseconds = 5_000
        public var timeoutMilliseconds = 2_000
        /// Good checks in a row until a server that was down is up, bad ones until one that was up is down.
        public var rise = 2
        public var fall = 2
        /// A request that is open for longer, at least, makes its server suspect.
        public var requestDeadlineMilliseconds = 400
        /// What the check of a suspect may take.
        public var suspectTimeoutMilliseconds = 500
        /// How long a session waits for a server before it is ended.
        public var serverWaitMilliseconds = 30_000
        public init() {}
    }

    public var ports: [PortConfiguration] = []
    public var clientCPU: CPUPortConfiguration
    public var storageCPU: CPUPortConfiguration
    /// Packets of sessions that stay relayed pass between network and CPU ports in the kernel, where it can.
    public var usesShortcut = true
    public var servers: [Server] = []
    public var resources: [Resource] = []
    /// Logical units of `iscsi.allUnitsTarget` that are made of several resources.
    public var volumes: [VolumeDefinition] = []
    public var credentials: [Credential] = []
    public var iscsi = ISCSI()
    /// Nil: no NFS is served.
    public var nfs: NFS?
    public var services: [Service] = []
    /// ovs-ofctl text.
    public var rules: [String] = []
    public var limits = Limits()
    public var health = Health()
    public var balance = Balance()
    /// Nil: agents are not heard.
    public var agents: Agents?
    public var announcedResources = AnnouncedResourcePolicy()
    public var socketPath = ControlClient.defaultPath
    public var logLevel = "info"

    /// There is something that iSCSI clients may come for.
    var hasTargets: Bool { resources.contains { $0.protocol == .iscsi } }
}

/// One thing that is wrong in a configuration file.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// From 1.
    public var line: Int
    public var column: Int
    /// Path of the field, `servers[0].addresses`.
    public var field: String
    public var message: String

    public var description: String { "line \(line), column \(column): \(field): \(message)" }
}

/// All that is wrong, in the order of the file.
public struct ConfigurationErrors: Error, Sendable, CustomStringConvertible {
    public var file: String
    public var errors: [ConfigurationError]
    public var description: String {
        errors.map { "\(file): \($0)" }.joined(separator: "\n")
    }
}

extension Configuration.Health {
    /// Each setting as people know it, for comparing.
    var values: [(key: String, value: Int)] {
        [
            ("interval_ms", intervalMilliseconds), ("timeout_ms", timeoutMilliseconds),
            ("rise", rise), ("fall", fall), ("request_deadline_ms", requestDeadlineMilliseconds),
            ("suspect_timeout_ms", suspectTimeoutMilliseconds),
            ("server_wait_ms", serverWaitMilliseconds),
        ]
    }
}
