"""Measures the engine's speed and memory for `nestling bench`, in processes of their own."""
