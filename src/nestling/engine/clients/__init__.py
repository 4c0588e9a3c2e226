"""The upper waist: `EngineClient`, its forms, and the messages that cross it."""
