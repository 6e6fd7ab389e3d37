"""From what is asked for to a Plan: the five accelerate configurations, and how one of them is chosen."""
