"""What is left of a derivative's gain when it is carried over to later releases of its base."""
