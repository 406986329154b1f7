import Foundation

/// Number of the execution that runs, in a file that outlives the process.
struct Progress: @unchecked Sendable {
    private let place: UnsafeMutableRawPointer

    init(path: String) throws {
        let descriptor = open(path, O_RDWR | O_CREAT, 0o600)
        guard descriptor >= 0, ftruncate(descriptor, 16) == 0,
            let place = mmap(nil, 16, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
            place != MAP_FAILED
        else { throw Failure(description: "cannot map \(path)") }
        close(descriptor)
        self.place = place
    }

    var execution: UInt64 {
        get { place.load(as: UInt64.self) }
        nonmutating set { place.storeBytes(of: newValue, as: UInt64.self) }
    }
}

struct Failure: Error, CustomStringConvertible { var description: String }

/// Executions of one target in this process.
enum Runner {
    /// Longest that one input may take.
    static let maximum = Duration.seconds(1)

    /// Runs until the time is over; false after a finding.
    static func run(_ target: Target, seed: UInt64, seconds: Double, progress: Progress) -> Bool {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(seconds)
        var execution = progress.execution
        while clock.now < end {
            progress.execution = execution
            if let finding = once(target, seed: seed, execution: execution) {
                print("\(target.name): execution \(execution): \(finding)")
                return false
            }
            execution += 1
        }
        progress.execution = execution
        return true
    }

    static func once(_ target: Target, seed: UInt64, execution: UInt64) -> String? {
        var random = SeededGenerator(seed: seed, execution: execution)
        let clock = ContinuousClock()
        let start = clock.now
        do {
            if let finding = try target.run(&random) { return finding }
        } catch {
            return "error \(error)"
        }
        let time = clock.now - start
        return time > maximum ? "took \(time)" : nil
    }
}

/// A target in a process of its own, so that a crash or a loop is told with its input.
enum Supervisor {
    static func run(_ target: Target, seed: UInt64, seconds: Double) throws -> Bool {
        let path = NSTemporaryDirectory() + "dsr-fuzz-\(getpid())-\(target.name)"
        defer { unlink(path) }
        let progress = try Progress(path: path)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = [
            "child", target.name, "--seed", "\(seed)", "--seconds", "\(seconds)", "--state", path,
        ]
        try process.run()
        var isStuck = false
        var last = (execution: UInt64.max, since: ContinuousClock.now)
        while process.isRunning {
            usleep(100_000)
            if progress.execution != last.execution { last = (progress.execution, .now) }
            // The process itself tells of an input that is only slow.
            if ContinuousClock.now - last.since > .seconds(10) {
                isStuck = true
                kill(process.processIdentifier, SIGKILL)
                break
            }
        }
        process.waitUntilExit()
        let isGood = process.terminationReason == .exit && process.terminationStatus == 0
        if !isGood {
            let what =
                isStuck
                ? "does not end"
                : process.terminationReason == .exit ? "finding" : "crash"
            print(
                "\(target.name): \(what) in execution \(progress.execution); repeat with: "
                    + "fuzz replay \(target.name) --seed \(seed) --execution \(progress.execution)")
        } else {
            print("\(target.name): \(progress.execution) executions, no finding")
        }
        fflush(nil)
        return isGood
    }
}
