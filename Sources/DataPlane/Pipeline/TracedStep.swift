extension Pipeline {
    /// As `step`, and tells what happened to each packet. For replays and tests: it allocates.
    public mutating func tracedStep(now: UInt64) -> [String] {
        let before = DropReason.allCases.map { output.drops[Int($0.rawValue)] }
        let sink = TraceSink()
        trace = sink
        step(now: now)
        trace = nil
        // The parser's drops are in the trace already, with their place.
        let told = Set(sink.lines)
        for (index, reason) in DropReason.allCases.enumerated()
        where output.drops[Int(reason.rawValue)] > before[index] {
            let line = "drop: \(reason)"
            if !told.contains(line) { sink.note(line) }
        }
        return sink.lines
    }
}
