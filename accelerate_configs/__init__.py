"""From what is asked for to a Plan: the five accelerate configurations, the choice among them, and what it is made from."""
