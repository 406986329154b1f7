import ControlPlane
import StorageProtocols

private let announcementKey = AnnouncementKey(secret: "sixteen-octets-1")
private let listing = Array(
    """
    Target 1: iqn.2026-01.lab.dsr:r1
        System information:
            Driver: iscsi
            State: ready
        I_T nexus information:
            I_T nexus: 2
                Initiator: iqn.2010-11.libiscsi:x alias: none
        LUN information:
            LUN: 0
                Type: controller
                Online: Yes
            LUN: 1
                Type: disk
                Online: Yes
        Account information:
        ACL information:
            ALL

    """.utf8)
private let listingWords = ["Target 2: ", "iqn.", "\n", "    ", "information:", "Online: Yes"]
    .map { Array($0.utf8) }

/// What was not said is never let through, and what tgtadm prints can always be announced.
func runAnnouncement(_ random: inout SeededGenerator) throws -> String? {
    let found = TargetAdministratorOutput.resources(
        String(decoding: random.mutated(listing, words: listingWords), as: UTF8.self))
    var sender = try AnnouncementSender(
        server: "s", key: announcementKey, bootID: random.next(), bootTime: 1)
    let datagrams = try sender.announce(
        found, load: AgentLoad(cpuPermille: 1, memoryPermille: 2), timestamp: 1)
    var gate = AnnouncementGate(skew: 10)
    gate.setKeys(["s": announcementKey])
    var table = AgentTable()
    for datagram in datagrams {
        let changed = random.mutated(datagram)
        if changed != datagram, (try? gate.take(changed, now: 1) { _ in true }) != nil {
            return "a changed announcement was taken"
        }
        _ = try table.apply(try gate.take(datagram, now: 1) { _ in true }, now: 1)
        if (try? gate.take(datagram, now: 1) { _ in true }) != nil { return "taken twice" }
    }
    return table["s"]?.resources == found ? nil : "announced otherwise than heard"
}

private let answers = [
    """
    HTTP/1.1 200 OK\r
    Content-Type: text/plain; version=0.0.4\r
    Transfer-Encoding: chunked\r
    \r
    29\r
    node_cpu_seconds_total{cpu="0",mode="x"} \r
    1d\r
    5
    node_load1 0.5 1700000000
    \r
    0\r
    \r

    """,
    "HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\nnode_memory_MemTotal_bytes 8e+09\n",
    """
    HTTP/1.0 200 OK\r
    \r
    node_cpu_seconds_total{cpu="0",mode="idle"} 1e3
    node_cpu_seconds_total{cpu="1",mode="user"} 5
    node_memory_MemTotal_bytes 8e+09
    node_memory_MemAvailable_bytes 6e+09
    node_network_receive_bytes_total{device="a\\"b"} 5
    """,
].map { Array($0.utf8) }
private let answerWords = ["\r\n", "ffffffff", "NaN", "+Inf", "1e999", "{", "}", "\\", "\""]
    .map { Array($0.utf8) }

/// However an answer is cut, it says the same.
func runExporter(_ random: inout SeededGenerator) -> String? {
    let bytes = random.mutated(random.pick(answers), words: answerWords)
    func read(_ step: Int) -> [UInt8]? {
        var reader = HTTPResponseReader(bodyMaximum: 300)
        do throws(HTTPResponseReader.Failure) {
            for start in stride(from: 0, to: bytes.count, by: step) {
                let piece = bytes[start..<min(bytes.count, start + step)]
                if let body = try reader.receive(piece, isEnd: false) { return body }
            }
            return try reader.receive([], isEnd: true)
        } catch {
            return nil
        }
    }
    let whole = read(bytes.count + 1)
    if whole != read(random.number(1...20)) { return "another body when it comes in pieces" }
    if let whole, whole.count > 300 { return "a body of \(whole.count) octets" }
    if let whole {
        _ = PrometheusText.samples(whole)
        _ = PrometheusText.load(whole)?.load(since: LoadSample(), seconds: 1)
    }
    return nil
}
