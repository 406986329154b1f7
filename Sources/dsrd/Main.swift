import ArgumentParser
import ControlPlane
import Dispatch
import Foundation
import Glibc
import Logging

/// The Dynamic Session Redirector's daemon.
@main
struct DSRD: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dsrd",
        abstract: "Runs a Dynamic Session Redirector in the present network namespace.")

    @Option(name: .shortAndLong, help: "Configuration file (YAML).")
    var config: String

    @Option(help: "Control socket; replaces the one of the configuration.")
    var socket: String?

    @Flag(help: "Only say whether the configuration is right.")
    var check = false

    func run() throws {
        let configuration: Configuration
        do {
            configuration = try Configuration.load(path: config)
        } catch {
            FileHandle.standardError.write(Data("\(error)\n".utf8))
            throw ExitCode(2)
        }
        if check { return print("\(config): \(configuration.resources.count) resources, right") }
        let level = Logger.Level(rawValue: configuration.logLevel) ?? .info
        let logger = Logger(label: "dsrd") {
            SharedLevelLogHandler(StreamLogHandler.standardError(label: $0), level: level)
        }

        // Threads made from here on leave these signals to `sigwait` below.
        var signals = sigset_t()
        sigemptyset(&signals)
        for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, signal) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        signal(SIGPIPE, SIG_IGN)

        let daemon = Daemon(configuration: configuration, path: config, log: logger)
        do {
            try daemon.start()
        } catch {
            logger.critical("\(error)")
            throw ExitCode(1)
        }
        let server = try startAPI(daemon, configuration, logger)
        var received: Int32 = 0
        while sigwait(&signals, &received) == 0, received == SIGHUP { reload(daemon, logger) }
        logger.notice("signal \(received): stopping")
        server.stop()
        daemon.stop()
    }

    /// As `dsrctl reload`; what is wrong goes to the log.
    private func reload(_ daemon: Daemon, _ logger: Logger) {
        let done = DispatchSemaphore(value: 0)
        Task {
            do throws(ControlError) {
                _ = try await daemon.reload(ReloadRequest())
            } catch {
                logger.error("reload: \(error)")
            }
            done.signal()
        }
        done.wait()
    }

    private func startAPI(
        _ daemon: Daemon, _ configuration: Configuration, _ logger: Logger
    ) throws -> ControlServer {
        let server = ControlServer(
            path: socket ?? configuration.socketPath, service: daemon, log: logger)
        do {
            try server.start()
        } catch {
            logger.critical("\(error)")
            daemon.stop()
            throw ExitCode(1)
        }
        return server
    }
}
