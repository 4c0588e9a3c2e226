"""The C++ core behind typed functions, one module per kernel."""
