"""Whether a ledger is what the rules and the signatures give: from its bytes alone."""
