"""Memory of a job: the bytes that training it will take, item by item, from the sizes of its model."""
