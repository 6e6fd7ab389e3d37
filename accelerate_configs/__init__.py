"""The five accelerate configurations, and the module that chooses among them."""
