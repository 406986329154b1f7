import DataPlane
import Foundation
import Logging

// The configuration file is read again: what can change while sessions go on changes, all of it or nothing.
extension Daemon {
    public func reload(_ request: ReloadRequest) async throws(ControlError) -> ReloadModel {
        let wanted = try readConfiguration()
        let outcome = await onLoop { [self] () -> Result<ReloadModel, ControlError> in
            do throws(ControlError) {
                return .success(try reload(to: wanted, dryRun: request.dryRun))
            } catch {
                return .failure(error)
            }
        }
        return try outcome.get()
    }

    private func readConfiguration() throws(ControlError) -> Configuration {
        do throws(ConfigurationErrors) {
            return try Configuration.load(path: configurationPath)
        } catch {
            let first = error.errors.first
            throw ControlError(
                .badRequest,
                ErrorModel(
                    message: "the configuration is wrong; the one in use stays:\n\(error)",
                    field: first?.field, line: first?.line, column: first?.column))
        }
    }

    /// On the session thread: two reloads cannot mix.
    private func reload(
        to wanted: Configuration, dryRun: Bool
    ) throws(ControlError) -> ReloadModel {
        let old = configuration
        let plan = ReloadPlan(from: old, to: wanted)
        var model = ReloadModel()
        model.changes = plan.changes
        model.disturbs = disturbances(plan)
        let batch = try ruleBatch(plan)
        guard plan.needsRestart.isEmpty else {
            model.warnings = plan.needsRestart.map { "needs a restart: \($0)" }
            if dryRun { return model }
            throw ControlError(
                .conflict, "nothing was changed: " + model.warnings.joined(separator: "; "),
                suggestion: "restart dsrd, or take these changes back")
        }
        if dryRun { return model }
        try apply(old, wanted, batch)
        model.isApplied = true
        report(plan)
        return model
    }

    /// What it means for sessions that are there: they are never cut.
    private func disturbances(_ plan: ReloadPlan) -> [String] {
        let summaries = engine.sessions.values.map(\.summary)
        func lines(_ changed: [String: String], _ kind: String, isTCP: Bool) -> [String] {
            changed.sorted { $0.key < $1.key }.compactMap { name, what in
                let count = summaries.count {
                    $0.resource == name && ($0.protocolName == "tcp") == isTCP
                }
                return count == 0 ? nil : "\(kind) \(name): \(count) sessions \(what)"
            }
        }
        return lines(plan.resourcesChanged, "resource", isTCP: false)
            + lines(plan.servicesChanged, "service", isTCP: true)
    }

    /// Rules that were added by command stay.
    private func ruleBatch(_ plan: ReloadPlan) throws(ControlError) -> [Command] {
        var batch: [Command] = []
        for rule in try parse(plan.rulesRemoved) {
            batch.append(
                .deleteRules(
                    RuleSelector(
                        match: rule.match, isStrict: true, priority: rule.priority,
                        cookie: rule.cookie, cookieMask: .max)))
        }
        for (index, rule) in try parse(plan.rulesAdded).enumerated() {
            if let refusal = SwitchRules.refusal(rule, own: ownRules) {
                throw ControlError(
                    .conflict,
                    ErrorModel(
                        message: refusal.message, field: "rules", suggestion: refusal.suggestion,
                        text: plan.rulesAdded[index]))
            }
            batch.append(.addRule(rule))
        }
        return batch
    }

    /// First what can fail, then what cannot.
    private func apply(
        _ old: Configuration, _ wanted: Configuration, _ batch: [Command]
    ) throws(ControlError) {
        do throws(SystemCallError) {
            try listeners.update(wanted)
        } catch {
            throw ControlError(.conflict, "nothing was changed: \(error)", field: "services")
        }
        do throws(ControlError) {
            if !batch.isEmpty { try apply(batch) }
        } catch {
            // Their sockets were there a moment ago.
            try? listeners.update(old)
            throw error
        }
        portal.update(from: old, to: wanted)
        setConfiguration(wanted)
        if old.servers != wanted.servers || old.resources != wanted.resources
            || old.health != wanted.health
        {
            management.update(from: old, to: wanted)
        } else if old.balance != wanted.balance {
            management.updateBalance(wanted)
        }
        announcements.update(wanted)
        health.update(to: wanted) { [weak self] in
            self?.open(wanted)
        }
        if old.logLevel != wanted.logLevel, let level = Logger.Level(rawValue: wanted.logLevel) {
            // The handler shares its level with all copies of the logger.
            var log = log
            log.logLevel = level
        }
    }

    private func report(_ plan: ReloadPlan) {
        log.notice("configuration read again: \(plan.changes.count) changes")
        for change in plan.changes { log.info("\(change)") }
        var event = EventModel()
        event.kind = "configuration_reloaded"
        event.message = "configuration read again: \(plan.changes.count) changes"
        event.details["changes"] = "\(plan.changes.count)"
        events.add(event)
    }
}
