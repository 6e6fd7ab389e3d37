"""The page that a run ends with, one HTML file: its words, its charts and its samples."""
