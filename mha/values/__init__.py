"""Plain values about heads, and what reads and writes them: plans, scores, index tables, errors. No model runs here."""
