import DataPlane

// Loads of servers and what would make them even.
extension Daemon {
    public func balance() async -> BalanceModel {
        await onLoop { [self] in balanceModel() }
    }

    public func setAutomaticBalance(_ isOn: Bool) async throws(ControlError) -> BalanceModel {
        let result = await onLoop { [self] () -> Result<BalanceModel, ControlError> in
            do throws(ControlError) {
                _ = try perform(.setAutomaticBalance(isOn))
                return .success(balanceModel())
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private func balanceModel() -> BalanceModel {
        let manager = management.manager
        var model = BalanceModel(manager.placementInput(), policy: configuration.balance.policy)
        model.isAutomatic = manager.isBalancingAutomatically
        if model.isAutomatic, let time = manager.balanceAt {
            let now = loop.clock()
            model.nextCheckS = seconds(time - min(now, time))
        }
        return model
    }

    public func balancePlan() async -> BalancePlanModel {
        await onLoop { [self] in
            BalancePlanModel(
                management.manager.placementInput(), policy: configuration.balance.policy,
                obstacle: management.manager.reasonNotToBalance)
        }
    }

    public func applyBalance(
        _ request: BalanceRequest
    ) async throws(ControlError) -> OperationModel {
        guard !request.moves.isEmpty else {
            throw ControlError(.badRequest, "a plan without moves", field: "moves")
        }
        let moves = request.moves.map {
            PlannedMove(resource: $0.resource, from: $0.from, to: $0.to)
        }
        guard Set(moves.map(\.resource)).count == moves.count else {
            throw ControlError(
                .badRequest, "a resource is moved twice by one plan", field: "moves")
        }
        return try await operate { [self] in
            do throws(ControlError) {
                var model = try perform(.applyBalance(moves), reason: .balance)
                model.message =
                    moves.count == 1 ? "1 move is made" : "\(moves.count) moves are made"
                return .success(model)
            } catch {
                return .failure(error)
            }
        }
    }
}

extension BalanceModel {
    /// Loads as they are, and whether the policy would do something about them.
    package init(_ input: PlacementInput, policy: BalancePolicy) {
        self.init()
        let present = PlacementState(input).loadsByName
        loads = input.servers.map { server in
            let load = present[server.name] ?? 0
            return ServerLoadModel(server: server.name, before: load, after: load)
        }
        if let trigger = Placement.Trigger(input, policy: policy) {
            isUneven = true
            reason = "uneven: \(trigger.reason)"
        } else {
            reason = "even enough"
        }
    }
}

extension BalancePlanModel {
    /// The best distribution by the policy, and what it would do.
    package init(_ input: PlacementInput, policy: BalancePolicy, obstacle: String?) {
        self.init()
        self.obstacle = obstacle
        let present = PlacementState(input).loadsByName
        var after = present
        if let plan = Placement.bestDistribution(input, policy: policy) {
            moves = plan.moves.map {
                MoveModel(resource: $0.resource, from: $0.from ?? "", to: $0.to)
            }
            after = plan.after
            reason = plan.reason
        } else if present.values.allSatisfy({ $0 == 0 }) {
            reason = "no load has been measured"
        } else {
            reason = "nothing gains enough to be worth a pause of sessions"
        }
        loads = input.servers.map { server in
            ServerLoadModel(
                server: server.name, before: present[server.name] ?? 0,
                after: after[server.name] ?? 0)
        }
    }
}
