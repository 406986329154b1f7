import Testing

@Suite struct SystemTestsPlaceholder { @Test func builds() {} }
