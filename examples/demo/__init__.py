"""The embedded default: a small game that draws its own data, and a tiny Gemma 3 that can learn it."""
