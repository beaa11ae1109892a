"""How an answer is thought out: formats, budgets, methods, the ledger. Knows the Backend, never torch."""
