import Glibc

/// Ctrl-C while a lab comes up must not leave half of it behind: the signal is noted here and ends
/// the bring-up at its next command.
enum Interruption {
    nonisolated(unsafe) private static var received: sig_atomic_t = 0

    static func catchSignals() {
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number) { _ in Interruption.received = 1 }
        }
    }

    static func check() throws {
        if received != 0 { throw LabError("interrupted") }
    }

    /// The removal that follows runs to its end.
    static func clear() { received = 0 }

    /// Programs inherit what is blocked; the lab's are to be ended by signals whoever runs dsr-lab.
    static func unblockSignals() {
        var none = sigset_t()
        sigemptyset(&none)
        sigprocmask(SIG_SETMASK, &none, nil)
    }
}
