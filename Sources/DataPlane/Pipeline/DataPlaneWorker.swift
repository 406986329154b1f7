import CLinux
import Glibc
import Synchronization

/// The thread that owns a `Pipeline`, and the one way to it: batches and reads go through a bounded queue,
/// events come back through a ring.
public final class DataPlaneWorker: @unchecked Sendable {
    /// Largest `SpliceID` + 1.
    public let spliceCapacity: UInt32
    /// Readable while events may be pending; cleared by `nextEvent` returning nil.
    public let eventDescriptor: Int32

    private let configuration: PipelineConfiguration
    private let wakeDescriptor: Int32
    /// ns to look for more input before sleeping.
    private let spin: UInt64
    private let events: EventRing
    private let hasJobs = Atomic<Bool>(false)
    private let isStopping = Atomic<Bool>(false)
    private let isAsleep = Atomic<Bool>(false)
    private let jobs = Mutex<[Job]>([])
    private let jobMaximum = 1_024
    private var thread = pthread_t()
    private var isRunning = false
    private var initial: UnsafeMutablePointer<Pipeline>?

    /// Something for the worker to do between two bursts.
    private final class Job: @unchecked Sendable {
        let body: (inout Pipeline) -> Void
        /// Batches leave the ports as they are.
        let mayChangePorts: Bool
        /// What the caller waits at; nil: nobody waits.
        private let done: UnsafeMutablePointer<sem_t>?
        init(
            isAwaited: Bool, mayChangePorts: Bool, _ body: @escaping (inout Pipeline) -> Void
        ) {
            self.body = body
            self.mayChangePorts = mayChangePorts
            done = isAwaited ? .allocate(capacity: 1) : nil
            if let done { sem_init(done, 0, 0) }
        }
        deinit {
            guard let done else { return }
            sem_destroy(done)
            done.deallocate()
        }
        func finish() { if let done { sem_post(done) } }
        func wait() {
            guard let done else { return }
            while sem_wait(done) != 0 {}
        }
    }

    public init(configuration: PipelineConfiguration, spin: UInt64 = 20_000) {
        self.configuration = configuration
        self.spin = spin
        spliceCapacity = UInt32(configuration.splices)
        eventDescriptor = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        wakeDescriptor = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        let pipeline = UnsafeMutablePointer<Pipeline>.allocate(capacity: 1)
        pipeline.initialize(to: Pipeline(configuration: configuration))
        initial = pipeline
        events = pipeline.pointee.output.events
    }

    deinit {
        if let initial, !isRunning {
            initial.deinitialize(count: 1)
            initial.deallocate()
        }
        close(eventDescriptor)
        close(wakeDescriptor)
    }

    // MARK: Life

    /// Starts the thread. Ports are added with `call` or before.
    public func start() {
        precondition(!isRunning, "started twice")
        isRunning = true
        let box = Unmanaged.passRetained(self)
        let result = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let worker = Unmanaged<DataPlaneWorker>.fromOpaque(argument).takeRetainedValue()
                worker.run()
                return nil
            }, box.toOpaque())
        precondition(result == 0, "pthread_create: \(result)")
    }

    /// Ends the thread and frees the pipeline with its ports.
    public func stop() {
        guard isRunning else { return }
        isStopping.store(true, ordering: .releasing)
        wake()
        pthread_join(thread, nil)
        isRunning = false
    }

    // MARK: Way in

    /// Runs `body` on the worker between two bursts and returns what it returns. Blocks the caller for tens
    /// of microseconds. Nil when the worker is stopped or its queue is full.
    public func call<Result>(_ body: @escaping (inout Pipeline) -> Result) -> Result? {
        call(mayChangePorts: true, body)
    }

    private func call<Result>(
        mayChangePorts: Bool, _ body: @escaping (inout Pipeline) -> Result
    ) -> Result? {
        if !isRunning {
            return initial.map { body(&$0.pointee) }
        }
        var result: Result?
        withUnsafeMutablePointer(to: &result) { slot in
            let target = UncheckedPointer(slot)
            let job = Job(isAwaited: true, mayChangePorts: mayChangePorts) { pipeline in
                target.pointer.pointee = body(&pipeline)
            }
            if enqueue(job) { job.wait() }
        }
        return result
    }

    /// False when the worker is stopping or has too much to do.
    private func enqueue(_ job: Job) -> Bool {
        let isQueued = jobs.withLock { queue in
            guard queue.count < jobMaximum, !isStopping.load(ordering: .acquiring) else {
                return false
            }
            queue.append(job)
            return true
        }
        guard isQueued else { return false }
        hasJobs.store(true, ordering: .sequentiallyConsistent)
        if isAsleep.load(ordering: .sequentiallyConsistent) { wake() }
        return true
    }

    /// Applies a batch whole or not at all.
    public func apply(_ commands: [Command]) throws(BatchError) -> [CommandResult] {
        let outcome = call(mayChangePorts: false) {
            pipeline -> Swift.Result<[CommandResult], BatchError> in
            do throws(BatchError) {
                return .success(try pipeline.apply(commands, now: dsr_monotonic_ns()))
            } catch {
                return .failure(error)
            }
        }
        guard let outcome else { throw BatchError(index: 0, reason: .stopped) }
        return try outcome.get()
    }

    /// As `apply`, but nobody waits: the batch is applied soon, before those that are handed over later.
    /// Packets may overtake it. `onApplied`, or `onRefusal` when it was refused, is called on the worker's thread.
    public func post(
        _ commands: [Command], onApplied: @escaping @Sendable () -> Void = {},
        onRefusal: @escaping @Sendable (BatchError) -> Void
    ) {
        let body = { (pipeline: inout Pipeline) in
            do throws(BatchError) {
                _ = try pipeline.apply(commands, now: dsr_monotonic_ns())
                onApplied()
            } catch {
                onRefusal(error)
            }
        }
        if !isRunning {
            guard let initial else { return onRefusal(BatchError(index: 0, reason: .stopped)) }
            return body(&initial.pointee)
        }
        if !enqueue(Job(isAwaited: false, mayChangePorts: false, body)) {
            let isStopped = isStopping.load(ordering: .acquiring)
            onRefusal(BatchError(index: 0, reason: isStopped ? .stopped : .queueFull))
        }
    }

    /// A port's device is not as it was. Nobody waits; called by any thread.
    public func lookAtPorts() {
        guard isRunning else { return }
        _ = enqueue(Job(isAwaited: false, mayChangePorts: true) { $0.lookAtPorts() })
    }

    // MARK: Way out

    /// The next event, in order; nil when there is none.
    public func nextEvent() -> Event? {
        if let event = events.pop() { return event }
        var count: UInt64 = 0
        _ = read(eventDescriptor, &count, 8)
        // One may have come between the look and the read.
        return events.pop()
    }

    private func wake() {
        var one: UInt64 = 1
        _ = write(wakeDescriptor, &one, 8)
    }

    // MARK: The thread

    private func run() {
        guard let pipeline = initial else { return }
        var poller = Poller(wakeDescriptor: wakeDescriptor)
        poller.update(&pipeline.pointee)
        var idleSince: UInt64 = 0
        var nextUpdate: UInt64 = 0
        while !isStopping.load(ordering: .relaxed) {
            let now = dsr_monotonic_ns()
            // Asking all ports at once which have input is cheaper than asking each for some.
            let frames = pipeline.pointee.step(ports: poller.readyPorts(), now: now)
            let jobs = runJobs(&pipeline.pointee)
            pipeline.pointee.tick(now: now)
            if pipeline.pointee.output.hasNewEvents {
                pipeline.pointee.output.hasNewEvents = false
                var one: UInt64 = 1
                _ = write(eventDescriptor, &one, 8)
            }
            if frames > 0 || jobs.count > 0 {
                idleSince = 0
                // A port may have come, gone, been joined again, or hold back frames.
                if jobs.mayChangePorts || now >= nextUpdate {
                    poller.update(&pipeline.pointee)
                    nextUpdate = now &+ 1_000_000
                }
                continue
            }
            if idleSince == 0 { idleSince = now }
            if now &- idleSince < spin { continue }
            poller.update(&pipeline.pointee)
            isAsleep.store(true, ordering: .sequentiallyConsistent)
            if !hasJobs.load(ordering: .sequentiallyConsistent) { poller.wait() }
            isAsleep.store(false, ordering: .relaxed)
            idleSince = dsr_monotonic_ns()
        }
        // Nobody is left waiting.
        _ = runJobs(&pipeline.pointee)
        pipeline.deinitialize(count: 1)
        pipeline.deallocate()
        initial = nil
    }

    private func runJobs(_ pipeline: inout Pipeline) -> (count: Int, mayChangePorts: Bool) {
        guard hasJobs.load(ordering: .acquiring) else { return (0, false) }
        hasJobs.store(false, ordering: .sequentiallyConsistent)
        let waiting = jobs.withLock { queue in
            let taken = queue
            queue.removeAll(keepingCapacity: true)
            return taken
        }
        var mayChangePorts = false
        for job in waiting {
            job.body(&pipeline)
            if job.mayChangePorts { mayChangePorts = true }
            job.finish()
        }
        return (waiting.count, mayChangePorts)
    }
}

private struct UncheckedPointer<Value>: @unchecked Sendable {
    let pointer: UnsafeMutablePointer<Value>
    init(_ pointer: UnsafeMutablePointer<Value>) { self.pointer = pointer }
}

/// Tells which ports have input; sleeps until one has, a job comes, or time is due.
///
/// By poll(2), not epoll: a socket that epoll watches calls it for every packet that comes, on the sender's processor,
/// also while nobody sleeps. Here there is nothing to be called but during a sleep.
private struct Poller: ~Copyable {
    /// The first one is the worker's own.
    private let entries: UnsafeMutablePointer<pollfd>
    /// Bits of the ports of `entries`, in their order.
    private let bits: UnsafeMutablePointer<UInt64>
    private var count = 1
    /// Ports without a descriptor to wait for, and those that must be looked at anyway.
    private var polledPorts: UInt64 = 0

    init(wakeDescriptor: Int32) {
        entries = .allocate(capacity: 65)
        entries.initialize(
            repeating: pollfd(fd: wakeDescriptor, events: Int16(POLLIN), revents: 0), count: 65)
        bits = .allocate(capacity: 65)
        bits.initialize(repeating: 0, count: 65)
    }

    deinit {
        entries.deallocate()
        bits.deallocate()
    }

    /// Follows ports that came, went, or have a new descriptor.
    mutating func update(_ pipeline: inout Pipeline) {
        polledPorts = 0
        count = 1
        for index in 0..<pipeline.output.numbers.count {
            let number = pipeline.output.numbers[index]
            guard let slot = pipeline.output.slots[Int(number)] else { continue }
            let bit = UInt64(1) << UInt64(number)
            if slot.port.needsPolling { polledPorts |= bit }
            let descriptor = slot.port.pollDescriptor
            guard descriptor >= 0 else { continue }
            entries[count].fd = descriptor
            bits[count] = bit
            count += 1
        }
    }

    /// Bit n: port n has input, or has to be asked. Does not wait.
    func readyPorts() -> UInt64 {
        // Without time to wait nothing is entered anywhere, only asked.
        guard poll(entries + 1, nfds_t(count - 1), 0) > 0 else { return polledPorts }
        var result = polledPorts
        for index in 1..<count where entries[index].revents != 0 { result |= bits[index] }
        return result
    }

    func wait() {
        var time = timespec(tv_sec: 0, tv_nsec: polledPorts != 0 ? 300_000 : 5_000_000)
        guard dsr_poll(entries, UInt32(count), &time) > 0, entries[0].revents != 0 else {
            return
        }
        var value: UInt64 = 0
        _ = read(entries[0].fd, &value, 8)
    }
}
