"""Methods of the blocking client; `client/generate` makes them from those of the asyncio client."""
