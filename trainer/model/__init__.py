"""The model itself: the base in 4 bits with its adapters, its head, and the contract that both must meet."""
