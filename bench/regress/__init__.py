"""The regression gate: does a change make attention slower, larger or less accurate?"""
