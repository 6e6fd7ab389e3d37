"""What fits, by trying: two real steps measured stage by stage, and the largest micro-batch."""
