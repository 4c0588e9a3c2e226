"""API keys, limits and usage in a database. No other room holds SQL; this one knows no engine."""
