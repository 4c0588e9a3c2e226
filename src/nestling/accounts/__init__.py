"""API keys and, later, people and usage. The only room that holds SQL; knows no engine."""
