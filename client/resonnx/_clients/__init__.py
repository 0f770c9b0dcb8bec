"""The blocking and the asyncio client.

Their methods are written once, in `aio`; `client/generate` makes `blocking` from it, but for the modules `calls`.
"""
