"""One file per family of skills; every skill is a function from a random state to a `Turn`."""
