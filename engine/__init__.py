"""onsale's engine: the reservation path, the drain and the reconciliation. No HTTP, no arq."""
