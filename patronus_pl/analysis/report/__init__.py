"""`patronus explain`: one page on what a model learned."""
