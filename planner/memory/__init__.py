"""What a job needs: sizes read from a model, and the bytes that training it will take, item by item."""
