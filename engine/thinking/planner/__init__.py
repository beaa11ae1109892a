"""The planner: what each way to answer would cost, and which to choose for a budget. Knows no torch."""
