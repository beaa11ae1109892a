"""`mull bench`: accuracy against what it costs, over models, methods and thinking budgets."""
