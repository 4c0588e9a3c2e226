"""The command line, one file per command; `serve` alone wires everything together."""
