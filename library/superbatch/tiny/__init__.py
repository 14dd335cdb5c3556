"""The built-in dual encoder with its tokenizer and preprocessing, shared by trainer and service."""
