"""Things to try Trainyard on."""
