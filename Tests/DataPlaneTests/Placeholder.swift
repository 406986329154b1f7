import Testing

@Suite struct DataPlaneTestsPlaceholder { @Test func builds() {} }
