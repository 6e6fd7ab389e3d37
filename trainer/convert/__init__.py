"""`python -m trainer convert`: makes JSON records, with their pictures beside them, of a data set in another
format."""
