"""The REST side: the Open Inference Protocol in JSON, and pictures as they are."""
