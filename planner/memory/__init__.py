"""Memory of a job: sizes read from a model, and the bytes that training it will take, item by item."""
