"""Do the verifiers grade what people and models write as it should be, and as others do?"""
