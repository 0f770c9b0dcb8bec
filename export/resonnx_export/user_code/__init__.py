"""Runs the user's own code: imports a TARGET of the command line, and loads a checkpoint into the module that it gives.

Only `resonnx-export module`, `verify --module` and adapters of captioners use this room.
"""
