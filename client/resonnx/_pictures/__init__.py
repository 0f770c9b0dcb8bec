"""Conversion of pictures to messages, and drawing of attention."""
