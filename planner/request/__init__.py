"""What was asked for: variables and site files, read strictly into a JobSpec."""
