"""The page a run ends with, one HTML file without scripts: what it says, its charts and its samples."""
