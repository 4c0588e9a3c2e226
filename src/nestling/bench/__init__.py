"""What `nestling bench` runs: the engine's speed and memory, in processes of their own."""
