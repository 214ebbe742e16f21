"""May this call run now: entitlement, queue, limits and budgets, and the gate that every model call goes through."""
