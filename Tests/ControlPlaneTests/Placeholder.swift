import Testing

@Suite struct ControlPlaneTestsPlaceholder { @Test func builds() {} }
