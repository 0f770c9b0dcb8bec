"""Pictures in every usual form, as bytes for a request."""
