"""`patronus audit`: which attributes a model ties together."""
