print("lookup")
