"""The command line, with one file for each command. `serve` alone wires everything together."""
