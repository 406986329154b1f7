import Glibc

/// Runs a program, bounded in time and output.
enum BoundedCommand {
    struct Output {
        /// Exit status; 128 and the signal when one ended it.
        var status: Int32
        var text: String
    }

    struct Failure: Error {
        var reason: String
    }

    /// The program is looked up in PATH; its errors go nowhere. What takes longer is killed.
    static func run(
        _ words: [String], nanoseconds limit: UInt64, maximum: Int
    ) throws(Failure) -> Output {
        let deadline = nanoseconds(CLOCK_MONOTONIC) + limit
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw failure(errno) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let process: pid_t
        do throws(Failure) {
            process = try spawn(words, output: ends[1])
        } catch {
            close(ends[1])
            throw error
        }
        close(ends[1])
        var bytes: [UInt8] = []
        let isWhole = read(ends[0], &bytes, until: deadline, maximum: maximum)
        // It has closed its output, but may not have ended.
        var status: Int32 = 0
        var result = isWhole ? waitpid(process, &status, WNOHANG) : 0
        while isWhole, result == 0, nanoseconds(CLOCK_MONOTONIC) < deadline {
            usleep(1_000)
            result = waitpid(process, &status, WNOHANG)
        }
        if result == 0 {
            kill(process, SIGKILL)
            while waitpid(process, &status, 0) < 0, errno == EINTR {}
            throw Failure(
                reason: bytes.count > maximum ? "prints too much" : "takes too long")
        }
        let signal = status & 0x7f
        return Output(
            status: signal == 0 ? status >> 8 & 0xff : 128 + signal,
            text: String(decoding: bytes, as: UTF8.self))
    }

    private static func spawn(_ words: [String], output: Int32) throws(Failure) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output, 1)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        // The agent blocks signals that the program must not.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var arguments = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var process: pid_t = 0
        let code = posix_spawnp(&process, words[0], &actions, &attributes, &arguments, environ)
        guard code == 0 else { throw failure(code) }
        return process
    }

    /// False when time or room did not suffice.
    private static func read(
        _ descriptor: Int32, _ bytes: inout [UInt8], until deadline: UInt64, maximum: Int
    ) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while bytes.count <= maximum {
            let now = nanoseconds(CLOCK_MONOTONIC)
            guard now < deadline else { return false }
            var poll = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = Glibc.poll(&poll, 1, Int32((deadline - now) / 1_000_000) + 1)
            guard ready > 0 else { continue }
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count == 0 { return true }
            if count > 0 { bytes.append(contentsOf: buffer[..<count]) }
        }
        return false
    }

    private static func failure(_ code: Int32) -> Failure {
        Failure(reason: "cannot be run: \(String(cString: strerror(code)))")
    }
}
