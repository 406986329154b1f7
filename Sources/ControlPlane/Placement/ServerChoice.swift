import Glibc

/// Chooses among servers that can all serve a resource (P29), by how fast they have answered.
///
/// Two servers are drawn at random and the better one is more likely taken ("power of two
/// choices"), by the squares of their scores: twice the score, a fifth of the cases. The fastest
/// gets most, yet work never rushes to a single server on stale numbers, and one that is slower by
/// a trifle loses a trifle. A score is the expected wait:
///
/// * by response time: smoothed time of an answer, times one more than the requests without an
///   answer;
/// * by throughput: one more than the requests without an answer, divided by the smoothed rate of
///   octets.
///
/// A rise of the response time counts at once and fades with `halfLife` (peak sensitive), a fall is
/// smoothed. While a server is not used, its score returns to the mean of all with `halfLife`; and
/// one choice in `probeInterval` goes to the server that was not used for the longest time. So a
/// server that was slow and has recovered gets a fair share again: T seconds among others with t
/// count for less than 1.1 * t after about `log2(20 * ln(T / t))` half-lives without any answer (7
/// for a thousandfold time), and sooner with the answers to probes.
public struct ServerChoice: Sendable {
    public enum Criterion: Hashable, Sendable { case responseTime, throughput }

    private struct State {
        /// Seconds, or octets per second; nil: nothing known.
        var value: Double?
        var outstanding = 0
        /// ns of the last answer.
        var updated: UInt64
        /// ns when it was chosen last.
        var chosen: UInt64
    }

    public let criterion: Criterion
    public let halfLife: Duration
    /// Choices between two probes of the server that has been idle for the longest time; 0: none.
    public let probeInterval: Int
    private var states: [String: State] = [:]
    private var sinceProbe = 0

    public init(
        criterion: Criterion = .responseTime, halfLife: Duration = .seconds(10),
        probeInterval: Int = 50
    ) {
        self.criterion = criterion
        self.halfLife = halfLife
        self.probeInterval = max(0, probeInterval)
    }

    /// Chooses one of `servers` and counts a request as outstanding there until `finished` or
    /// `failed`; nil when there are none. `now` is in ns of any monotonic clock.
    public mutating func choose(
        among servers: [String], at now: UInt64, using random: inout some RandomNumberGenerator
    ) -> String? {
        guard let first = servers.first else { return nil }
        for server in servers where states[server] == nil {
            states[server] = State(updated: now, chosen: now)
        }
        var chosen = first
        sinceProbe += 1
        if probeInterval > 0, sinceProbe >= probeInterval {
            sinceProbe = 0
            chosen = longestIdle(servers)
        } else if servers.count > 1 {
            let one = Int.random(in: 0..<servers.count, using: &random)
            var two = Int.random(in: 0..<(servers.count - 1), using: &random)
            if two >= one { two += 1 }
            let mean = mean(of: servers, now)
            let (left, right) = (score(servers[one], mean, now), score(servers[two], mean, now))
            let odds = right / left
            // Not a number when both are beyond measure: then the first.
            let share = 1 / (1 + odds * odds)
            let better = Double.random(in: 0..<1, using: &random) < share ? two : one
            chosen = servers[better]
        }
        states[chosen]?.outstanding += 1
        states[chosen]?.chosen = now
        return chosen
    }

    /// A request was answered: how long it took and how much data it moved.
    public mutating func finished(
        on server: String, after time: Duration, bytes: Int = 0, at now: UInt64
    ) {
        release(server)
        let (whole, fraction) = time.components
        let seconds = max(1e-9, Double(whole) + Double(fraction) * 1e-18)
        learn(criterion == .responseTime ? seconds : Double(max(1, bytes)) / seconds, server, now)
    }

    /// Requests were answered on the way: `time` is their mean. What is outstanding stays so.
    public mutating func observed(on server: String, taking time: Double, at now: UInt64) {
        guard time.isFinite, criterion == .responseTime else { return }
        if states[server] == nil { states[server] = State(updated: now, chosen: now) }
        learn(max(1e-9, time), server, now)
    }

    /// What was outstanding is over, and says nothing of how fast the server is.
    public mutating func left(_ server: String) { release(server) }

    /// A request was not answered: counts as an answer that took `penalty` and moved nothing.
    public mutating func failed(on server: String, penalty: Duration = .seconds(5), at now: UInt64)
    {
        finished(on: server, after: penalty, bytes: 0, at: now)
    }

    /// Forgets servers that are no more.
    public mutating func keep(_ servers: Set<String>) {
        states = states.filter { servers.contains($0.key) }
    }

    /// Expected wait of a request, less is better; for people and tests. Nil: nothing known.
    public func score(of server: String, among servers: [String], at now: UInt64) -> Double? {
        guard states[server]?.value != nil else { return nil }
        return score(server, mean(of: servers, now), now)
    }

    private mutating func release(_ server: String) {
        guard let outstanding = states[server]?.outstanding else { return }
        states[server]?.outstanding = max(0, outstanding - 1)
    }

    private mutating func learn(_ sample: Double, _ server: String, _ now: UInt64) {
        guard var state = states[server] else { return }
        defer { states[server] = state }
        let elapsed = now > state.updated ? now - state.updated : 0
        state.updated = max(now, state.updated)
        guard let old = state.value else {
            state.value = sample
            return
        }
        let isPeak = criterion == .responseTime && sample > old
        // Answers that come all at once still count: each for a twentieth at least.
        let keep = isPeak ? 0 : min(0.95, decay(over: elapsed, halfLife: halfLife))
        state.value = sample + (old - sample) * keep
    }

    /// The first of those that were not chosen for the longest time.
    private func longestIdle(_ servers: [String]) -> String {
        servers.min { (states[$0]?.chosen ?? 0) < (states[$1]?.chosen ?? 0) } ?? servers[0]
    }

    /// Geometric mean of what is known, what is old counting less: one very slow server does not
    /// make the others look fast, and is forgotten. One when nothing is known, which makes all
    /// equal.
    private func mean(of servers: [String], _ now: UInt64) -> Double {
        var (sum, shares) = (0.0, 0.0)
        for server in servers {
            guard let state = states[server], let value = state.value else { continue }
            let share = freshness(state, now)
            sum += share * log(value)
            shares += share
        }
        return shares > 0 ? exp(sum / shares) : 1
    }

    private func freshness(_ state: State, _ now: UInt64) -> Double {
        decay(over: now > state.updated ? now - state.updated : 0, halfLife: halfLife)
    }

    private func score(_ server: String, _ mean: Double, _ now: UInt64) -> Double {
        guard let state = states[server] else { return mean }
        // In proportions, not in differences: a thousandfold time fades in reasonable time too.
        let value = mean * pow((state.value ?? mean) / mean, freshness(state, now))
        let queue = Double(state.outstanding + 1)
        return criterion == .responseTime ? value * queue : queue / value
    }
}
