import ControlPlane
import DataPlane
import Foundation

private func words(_ texts: [String]) -> [[UInt8]] { texts.map { Array($0.utf8) } }

private let ruleSeeds = words([
    "priority=100,tcp,nw_src=10.0.0.0/24,nw_dst=10.0.0.1/255.0.255.0,tp_dst=80 actions=output:2",
    "cookie=0x1/-1,idle_timeout=1,in_port=a,dl_vlan=5,dl_vlan_pcp=3 actions=NORMAL",
    "udp6,ipv6_src=fd00::/64,ipv6_dst=::1,tp_src=0x8000/0x8000 actions=set_field:fd00::2->ipv6_dst,1",
    "arp,arp_op=1,arp_spa=10.0.0.1,arp_sha=02:00:00:00:00:01/ff:ff:ff:00:00:00 actions=FLOOD",
    "tcp,tcp_flags=+syn-ack,nw_tos=184,nw_ecn=1,nw_ttl=3,nw_frag=later actions=dec_ttl,cpu",
    "icmp6,icmp_type=135,icmp_code=0 actions=mod_dl_src:02:00:00:00:00:09,push_vlan:0x8100,b",
    "vlan_tci=0x1123/0x1fff actions=mod_nw_src:1.2.3.4,mod_tp_dst:5,mirror:2,splice=7",
    "table=0,dl_type=0x88cc actions=output(port=2),strip_vlan,mod_vlan_vid:1,drop",
])
private let ruleWords = words([
    "/", "=", ",", ":", "->", "(", ")", " ", "actions=", "0x", "-1", "65536", "ip", "ipv6", "\0",
    "é",
    "\r\n", "18446744073709551616", "::ffff:1.2.3.4",
])

/// A rule that is taken prints as text that gives the rule again.
func runRules(_ random: inout SeededGenerator) -> String? {
    let text = String(
        decoding: random.mutated(random.pick(ruleSeeds), words: ruleWords), as: UTF8.self)
    let ports = PortNames(["a", "b"])
    do {
        let rule = try RuleSyntax.parse(text, ports: ports)
        let again = RuleFormat.text(rule)
        guard (try? RuleSyntax.parse(again)) == rule else {
            return "\"\(text)\" prints as \"\(again)\""
        }
    } catch {
        guard error.column >= 1, error.column <= text.count + 1, !error.rendering.isEmpty else {
            return "\"\(text)\": column \(error.column)"
        }
    }
    _ = try? RuleSyntax.parseSelector(text, isStrict: random.chance(2), ports: ports)
    _ = try? RuleSyntax.parseFile(text, ports: ports)
    return nil
}

private let configurationSeed = Array(
    """
    ports:
      - { name: c, device: c0, side: client, receive: ring }
      - { name: s, device: s0, side: storage, faults: { drop: 0.5, delay_us: 3, seed: 1 } }
    cpu:
      client: { device: k0, mac: "02:00:00:00:01:01", addresses: [10.0.0.1/24, "fd00::1/64"] }
      storage: { device: k1, mac: "02:00:00:00:02:01", addresses: [10.0.1.1/24] }
    servers:
      - name: srv1
        addresses: &a [10.0.1.11]
        iscsi: { port: 3261 }
        agent_secret: sixteen-octets-2
        node_exporter: http://10.0.1.11:9100/metrics
        credentials: { user: u, secret: switch-secret-1, mutual: { user: m, secret: server-secret-1 } }
    resources:
      - { name: d, target: "iqn.2026-01.test:d", servers: [srv1], assigned: srv1 }
    iscsi: { listen: { port: 3260 }, authentication: chap, splice: manual }
    credentials:
      - { user: alice, secret: alice-secret-1, resources: [d] }
    agents: { port: 7411, secret: sixteen-octets-1, silence_ms: 3000, skew_s: 30 }
    announced_resources: { allow: ["iqn.2026-01.test:*"], servers: [srv1] }
    services:
      - { name: web, listen: { port: 8080 }, server: srv1, port: 80, splice: at_once }
    rules: ["priority=1,tcp,in_port=c actions=output:s"]
    limits: { sessions: 5, held_bytes: 70000 }
    health: { interval_ms: 500 }
    control: { socket: /tmp/x }
    log: { level: debug }
    """.utf8)
private let configurationWords = words([
    "*a", "&b ", "<<: *a", "!!int ", "!!binary ", "? ", "- ", "{", "}", "[", "]", ": ", "|\n ",
    ">\n ",
    "---\n", "...\n", "%YAML 9.9\n", "\"", "'", "\t", "\0", "~", "1e999", "nan", "0x7f",
    "9223372036854775808",
])

func runConfiguration(_ random: inout SeededGenerator) -> String? {
    let text = String(
        decoding: random.mutated(configurationSeed, words: configurationWords), as: UTF8.self)
    do {
        let result = try Configuration.parse(text: text, file: "fuzz")
        if result.ports.isEmpty { return "a configuration without ports was taken" }
    } catch {
        if error.errors.isEmpty { return "refused without a reason" }
        if error.errors.contains(where: { $0.message.isEmpty }) {
            return "an error without a message"
        }
    }
    return nil
}

private let bodySeeds = words([
    #"{"rules":["priority=1 actions=drop","tcp actions=1"]}"#, #"{"packet":"00ff","in_port":"1"}"#,
    #"{"flow":"tcp,tp_dst=80"}"#,
    #"{"port":"all","file":"/tmp/x","count":5,"filter":"tcp port 80"}"#,
    #"{"dry_run":true}"#,
])
private let bodyWords = words([
    "null", "true", "-1", "1e400", "18446744073709551616", "\\u0000", "\\ud800", "[[[[[[[[",
    "{\"a\":",
    "\"", ",", "\0",
])

/// A body that is taken is written and read again.
func runAPI(_ random: inout SeededGenerator) -> String? {
    let body = Data(random.mutated(random.pick(bodySeeds), words: bodyWords))
    func check<Value: Codable & Hashable>(_ type: Value.Type) -> String? {
        guard let value = try? JSONCoding.decode(type, body) else { return nil }
        let again = try? JSONCoding.decode(type, JSONCoding.encode(value))
        return again == value ? nil : "\(type) is not read again: \(value)"
    }
    return check(RulesRequest.self) ?? check(TraceRequest.self) ?? check(CaptureRequest.self)
        ?? check(ReloadRequest.self)
}
