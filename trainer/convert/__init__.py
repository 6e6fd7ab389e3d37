"""`python -m trainer convert`: whatever a data set is made of becomes JSON records and pictures beside them."""
