"""Methods of the asyncio client, as coroutines and async generators."""
