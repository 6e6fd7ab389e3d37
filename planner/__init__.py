"""From a request to a plan: what was typed, what memory it takes, which configuration fits.

Pure but for the files it reads.
"""
