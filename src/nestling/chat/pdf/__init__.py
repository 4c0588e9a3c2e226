"""Reads PDFs, in a child process: `python -m nestling.chat.pdf`. Only `chat/files.py` starts it."""
