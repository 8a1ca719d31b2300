"""Results to what is said of them."""
