"""A person's request: variables and site files, read strictly into a JobSpec."""
