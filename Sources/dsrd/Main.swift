import ArgumentParser
import ControlPlane
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
        var logger = Logger(label: "dsrd") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = Logger.Level(rawValue: configuration.logLevel) ?? .info

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
        sigwait(&signals, &received)
        logger.notice("signal \(received): stopping")
        server.stop()
        daemon.stop()
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
